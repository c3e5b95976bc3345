//! The local store does what the reference does, whatever it is told and in whatever order.

use proptest::prelude::*;

use super::*;
use crate::io::{BLOCK, IoEngine};
use crate::store::Direct;
use crate::store::conformance::{bytes, noise, record};
use crate::store::local::tests::Local;
use crate::store::pieces::pieces_of;

/// Writes begin at multiples of this, which is none of any unit that a store has but of the alignment.
const SLOT: usize = 9 * (64 << 10) + ALIGN;

/// Ids are few, so that operations meet.
const IDS: u8 = 4;

#[derive(Clone, Debug)]
enum Operation {
    Begin { id: u8, is_expected: bool },
    Write { id: u8, slot: u8, kind: u8 },
    Publish { id: u8, beyond: usize },
    Remove { id: u8 },
    Clone { from: u8, to: u8, larger: usize },
    Grow { id: u8, by: usize },
    Sweep { kept: u8 },
    BringBack { id: u8 },
    Cut,
}

fn operation() -> impl Strategy<Value = Operation> {
    let beyond = || prop_oneof![Just(0), 1..ALIGN, 1..3 * BLOCK];
    prop_oneof![
        4 => (0..IDS, any::<bool>()).prop_map(|(id, is_expected)| Operation::Begin { id, is_expected }),
        8 => (0..IDS, 0..12u8, 0..3u8).prop_map(|(id, slot, kind)| Operation::Write { id, slot, kind }),
        4 => (0..IDS, beyond()).prop_map(|(id, beyond)| Operation::Publish { id, beyond }),
        2 => (0..IDS).prop_map(|id| Operation::Remove { id }),
        2 => (0..IDS, 0..IDS, beyond()).prop_map(|(from, to, larger)| Operation::Clone { from, to, larger }),
        2 => (0..IDS, beyond()).prop_map(|(id, by)| Operation::Grow { id, by }),
        1 => any::<u8>().prop_map(|kept| Operation::Sweep { kept }),
        1 => (0..IDS).prop_map(|id| Operation::BringBack { id }),
        1 => Just(Operation::Cut),
    ]
}

fn content_id(id: u8) -> ContentId {
    ContentId::from_bytes([id + 1; 16])
}

/// A draft in both stores, and what was written to it.
struct Drafts {
    of: [Arc<dyn Draft>; 2],
    content: Vec<u8>,
    slots: HashSet<u8>,
}

/// The store and its reference.
struct Pair {
    local: Local,
    memory: Subject,
    store: MemoryStore,
    drafts: BTreeMap<u8, Drafts>,
}

/// How an operation has ended, as far as every store ends it so.
fn told<T>(outcome: &Result<T, StoreError>) -> &'static str {
    match outcome {
        Ok(_) => "done",
        Err(StoreError::Missing(_)) => "missing",
        Err(StoreError::Damaged(..)) => "damaged",
        Err(StoreError::Io(_)) => "refused",
        Err(StoreError::NoSpace | StoreError::TooLarge | StoreError::Unsupported) => "cannot",
    }
}

impl Pair {
    fn subjects(&self) -> [&Subject; 2] {
        [&self.local, &self.memory]
    }

    async fn size(&self, id: u8) -> usize {
        self.memory.store.open(content_id(id)).await.map_or(0, |image| image.size().get() as usize)
    }

    async fn is_lost(&self, id: u8) -> bool {
        self.memory.store.lost().await.unwrap().iter().any(|lost| lost.id == content_id(id))
    }

    async fn run(&mut self, operation: &Operation) {
        let mut told_by = Vec::new();
        match *operation {
            Operation::Begin { id, is_expected } => {
                let mut of = Vec::new();
                for subject in self.subjects() {
                    let reservation = subject.store.space().reserve(ByteCount::mib(1)).unwrap();
                    let expected = is_expected.then_some(ByteCount::mib(2));
                    let options = DraftOptions { expected, reservation, record: record(), is_kept: false };
                    of.push(subject.store.draft(content_id(id), options).await.unwrap());
                }
                let of = of.try_into().unwrap_or_else(|_| panic!("two"));
                self.drafts.insert(id, Drafts { of, content: Vec::new(), slots: HashSet::new() });
            }
            Operation::Write { id, slot, kind } => {
                let Some(mut drafts) = self.drafts.remove(&id) else { return };
                if drafts.slots.insert(slot) {
                    let mut part = vec![0; SLOT];
                    match kind {
                        0 => {}
                        1 => part[SLOT / 2] = 9,
                        _ => part = noise(SLOT, usize::from(slot)),
                    }
                    let at = usize::from(slot) * SLOT;
                    let end = drafts.content.len().max(at + SLOT);
                    drafts.content.resize(end, 0);
                    drafts.content[at..at + SLOT].copy_from_slice(&part);
                    for (subject, draft) in self.subjects().into_iter().zip(&drafts.of) {
                        let block = subject.block(&part).await;
                        draft.write_at(block, 0..SLOT, at as u64).await.unwrap();
                    }
                }
                self.drafts.insert(id, drafts);
            }
            Operation::Publish { id, beyond } => {
                let Some(drafts) = self.drafts.remove(&id) else { return };
                if self.is_lost(id).await {
                    return;
                }
                for draft in &drafts.of {
                    let size = bytes(drafts.content.len() + beyond);
                    told_by.push(told(&draft.publish(size, pieces_of(&drafts.content)).await));
                }
            }
            Operation::Remove { id } => {
                for subject in self.subjects() {
                    told_by.push(told(&subject.store.remove(content_id(id)).await));
                }
            }
            Operation::Clone { from, to, larger } => {
                let size = bytes(self.size(from).await + larger);
                if self.is_lost(to).await {
                    return;
                }
                for subject in self.subjects() {
                    let copied = subject.store.clone_image(content_id(from), content_id(to), size, record()).await;
                    told_by.push(told(&copied));
                }
            }
            Operation::Grow { id, by } => {
                let size = bytes(self.size(id).await + by);
                for subject in self.subjects() {
                    told_by.push(told(&subject.store.grow(content_id(id), size).await));
                }
            }
            Operation::Sweep { kept } => self.sweep(move |id| kept & (1 << (id.as_bytes()[0] - 1)) != 0).await,
            Operation::BringBack { id } => {
                if !self.is_lost(id).await {
                    return;
                }
                for subject in self.subjects() {
                    told_by.push(told(&subject.store.bring_back(content_id(id)).await));
                }
            }
            Operation::Cut => {
                self.drafts.clear();
                self.store.lose_power();
                self.local.reopen();
                self.sweep(|_| true).await;
            }
        }
        assert!(told_by.first() == told_by.last(), "{operation:?} is {told_by:?}");
    }

    async fn sweep(&mut self, keep: impl Fn(ContentId) -> bool + Copy + Send + Sync + 'static) {
        let running: HashSet<ContentId> = self.drafts.keys().map(|id| content_id(*id)).collect();
        let mut swept = Vec::new();
        for subject in self.subjects() {
            let running = running.clone();
            let is_running = Arc::new(move |id| running.contains(&id));
            swept.push(subject.store.sweep(Arc::new(keep), is_running, UnixTime(0)).await.unwrap());
        }
        // After a cut the local store may still have drafts whose beginning nobody flushed.
        let [local, memory] = [&swept[0], &swept[1]];
        assert_eq!((&local.set_aside, local.returned), (&memory.set_aside, memory.returned));
    }

    /// Compares all that can be seen.
    async fn compare(&self) {
        let mut seen = Vec::new();
        for subject in self.subjects() {
            let mut images = subject.store.images().await.unwrap();
            images.sort_unstable();
            let mut lost: Vec<_> =
                subject.store.lost().await.unwrap().iter().map(|lost| (lost.id, lost.size)).collect();
            lost.sort_unstable();
            seen.push((images, lost));
        }
        assert!(seen[0] == seen[1], "{seen:?}");
        for id in &seen[0].0 {
            let [local, memory] = [self.local.read(*id).await, self.memory.read(*id).await];
            assert!(local == memory, "{id}");
            let pieces = self.memory.pieces(*id).await;
            assert_eq!(self.local.pieces(*id).await, pieces);
            assert_eq!(pieces, pieces_of(&memory));
            for subject in self.subjects() {
                let image = subject.store.open(*id).await.unwrap();
                for run in image.runs(Extent::whole(image.size())).await.unwrap().iter().filter(|run| run.hole) {
                    let part = &memory[run.extent.offset as usize..run.extent.end() as usize];
                    assert!(is_zero(part), "data is called a hole");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_local_store_does_what_the_reference_does(operations in prop::collection::vec(operation(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for capabilities in [EVERYTHING, Capabilities { shares_clones: false, ..EVERYTHING }] {
                let (memory, store) = subject(capabilities);
                let local = Local::temporary(IoEngine::best(1).0, Direct::Auto);
                let mut pair = Pair { local, memory, store, drafts: BTreeMap::new() };
                for (n, operation) in operations.iter().enumerate() {
                    pair.run(operation).await;
                    if n % 8 == 0 || matches!(operation, Operation::Cut) {
                        pair.compare().await;
                    }
                }
                pair.compare().await;
            }
        });
    }
}
