//! The reference keeps the promises itself, also when its power goes at any moment.

mod model;

use super::*;
use crate::io::Pool;
use crate::store::conformance::crash::{check_after, every_step, prepare};
use crate::store::conformance::{Outside, Subject};

/// All that a store in memory can do.
const EVERYTHING: Capabilities = Capabilities { shares_clones: true, grows: true, kernel_file: false };

/// What a store can do that can do nothing beyond the promises.
const NOTHING: Capabilities = Capabilities { shares_clones: false, grows: false, kernel_file: false };

fn subject(capabilities: Capabilities) -> (Subject, MemoryStore) {
    let store = MemoryStore::new(ByteCount::mib(1 << 20), capabilities);
    let subject = Subject {
        name: format!("memory {capabilities:?}"),
        store: Arc::new(store.clone()),
        outside: Box::new(store.clone()),
        pool: Pool::new(ByteCount::mib(32)),
    };
    (subject, store)
}

/// Stores in memory, for the tests of any store.
pub(in crate::store) fn every_way() -> impl Iterator<Item = Subject> {
    [EVERYTHING, NOTHING].into_iter().map(|capabilities| subject(capabilities).0)
}

impl MemoryStore {
    fn change(&self, id: ContentId, change: impl FnOnce(&mut Stored)) {
        change(Arc::make_mut(self.state().now.images.get_mut(&id).unwrap()));
    }
}

impl Outside for MemoryStore {
    fn left(&self) -> Vec<String> {
        let state = self.state();
        state.now.images.keys().chain(state.now.drafts.keys()).map(ContentId::to_string).collect()
    }

    fn takes(&self, id: ContentId) -> u64 {
        self.state().now.images[&id].bytes.taken()
    }

    fn spoil(&self, id: ContentId, offset: u64, bytes: &[u8]) {
        self.change(id, |stored| stored.bytes.write(offset, bytes));
    }

    fn lose_end(&self, id: ContentId, from: u64) {
        self.change(id, |stored| stored.bytes.truncate(from));
    }

    fn fail_next_flush(&self, error: Errno) {
        self.state().flush_fault = Some(error);
    }

    fn keeps_records(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_power_cut_between_any_two_steps_leaves_whole_images_and_sweepable_leftovers() {
    for at in 1.. {
        let (subject, store) = subject(EVERYTHING);
        prepare(&subject).await;
        store.lose_power_after(at);
        let mut done = Vec::new();
        let is_cut = tokio::select! {
            biased;
            () = every_step(&subject, |step| done.push(step)) => false,
            () = store.power_lost() => true,
        };
        // It may have more steps to go than there were.
        store.state().left = None;
        check_after(&subject, |step| done.contains(&step), at).await;
        if !is_cut {
            assert!(at > 15, "only {at} steps");
            return;
        }
    }
}

#[tokio::test]
async fn what_was_not_flushed_is_gone_when_the_power_goes_and_what_was_is_not() {
    let (subject, store) = subject(EVERYTHING);
    let [kept, lost] = [ContentId::random(), ContentId::random()];
    subject.draft(kept, 1).await.publish(ByteCount::mib(1), Pieces::default()).await.unwrap();
    let _draft = subject.draft(lost, 1).await;
    store.lose_power();
    assert_eq!(subject.left(), [kept.to_string()]);
}

#[tokio::test]
async fn a_full_store_is_no_space_and_leaves_nothing() {
    let store = MemoryStore::new(ByteCount::mib(3), NOTHING);
    let subject = Subject { store: Arc::new(store.clone()), outside: Box::new(store), ..subject(NOTHING).0 };
    let space = subject.store.space();
    assert!(matches!(space.reserve(ByteCount::mib(4)), Err(StoreError::NoSpace)));
    let id = ContentId::random();
    let draft = subject.draft(id, 1).await;
    let data = subject.block(&vec![1; crate::io::BLOCK]).await;
    draft.write_at(data.clone(), 0..data.len(), 0).await.unwrap();
    let over = draft.write_at(data.clone(), 0..data.len(), data.len() as u64).await.unwrap_err();
    assert!(matches!(StoreError::from(over), StoreError::NoSpace));
    assert!(draft.publish(ByteCount::mib(4), Pieces::default()).await.is_err());
    subject.store.remove(id).await.unwrap();
    drop(space.reserve(ByteCount::mib(3)).unwrap());
}
