//! A store that ends at any moment leaves whole images, and leftovers that a sweep removes.
//!
//! How it is made to end is known to the tests of each store.

use std::sync::LazyLock;

use super::*;

const SOURCE: ContentId = ContentId::from_bytes([1; 16]);
const UPLOAD: ContentId = ContentId::from_bytes([2; 16]);
const CLONE: ContentId = ContentId::from_bytes([3; 16]);
const DOOMED: ContentId = ContentId::from_bytes([4; 16]);
const LARGE: ContentId = ContentId::from_bytes([5; 16]);
const KEPT: ContentId = ContentId::from_bytes([6; 16]);

/// What there is before the steps.
static BEFORE: LazyLock<Vec<u8>> = LazyLock::new(|| noise(2 * BLOCK, 1));

/// What is uploaded: a small image or a large one, which a store may keep in other ways.
static AFTER: LazyLock<Vec<u8>> = LazyLock::new(|| noise(3 * BLOCK + 9, 2));

/// What comes in parts: the last of them is copied from the source, and both its ends lie within sectors.
static TOGETHER: LazyLock<Vec<u8>> =
    LazyLock::new(|| [&AFTER[..PARTS[2].0.end + 9], &BEFORE[COPY.0..COPY.0 + COPY.1]].concat());

/// The offset of that in the source, and its length.
const COPY: (usize, usize) = (9, 5_000);

fn source() -> &'static [u8] {
    &BEFORE
}

/// What is uploaded as this image.
fn uploaded(id: ContentId) -> &'static [u8] {
    match id {
        LARGE => &AFTER,
        KEPT => &TOGETHER,
        _ => &AFTER[..BLOCK + 9],
    }
}

async fn upload(subject: &Subject, id: ContentId, content: &[u8]) {
    let draft = subject.draft(id, content.len()).await;
    subject.fill(&*draft, content).await;
    draft.publish(bytes(content.len()), pieces_of(content)).await.unwrap();
}

/// Together two are as large as a draft that is written past the page cache.
const HALF: usize = 512 << 10;

/// The parts of a draft that is kept, in the order in which they come. Each is told after its checkpoint.
const PARTS: [(Range<usize>, &str); 3] =
    [(HALF..2 * HALF, "part 1"), (0..HALF, "part 2"), (2 * HALF..2 * HALF + ALIGN, "part 3")];

fn kept_options(subject: &Subject) -> DraftOptions {
    let size = bytes(uploaded(KEPT).len());
    let reservation = subject.store.space().reserve(size).unwrap();
    DraftOptions { expected: Some(size), reservation, record: record(), is_kept: true }
}

/// Writes a draft part by part, each with a checkpoint, as two processes would.
async fn upload_in_parts(subject: &Subject, did: &mut impl FnMut(&'static str)) {
    let content = uploaded(KEPT);
    let mut draft = subject.store.draft(KEPT, kept_options(subject)).await.unwrap();
    did("keep");
    let mut map = PieceMap::default();
    for (n, (part, step)) in PARTS.into_iter().enumerate() {
        let block = subject.block(&content[part.clone()]).await;
        draft.write_at(block, 0..part.len(), part.start as u64).await.unwrap();
        map.add(part.start as u64..part.end as u64, Vec::new());
        if n == 2 {
            let copy = part.end + 9;
            draft.write_edge(content[part.end..copy].to_vec(), part.end as u64).await.unwrap();
            let from = Extent { offset: COPY.0 as u64, len: COPY.1 as u64 };
            draft.copy(SOURCE, from, copy as u64).await.unwrap();
            map.add(part.end as u64..content.len() as u64, Vec::new());
        }
        draft.checkpoint(map.clone()).await.unwrap();
        did(step);
        if n == 1 {
            drop(draft);
            (draft, map) = subject.store.resume(KEPT, kept_options(subject)).await.unwrap();
        }
    }
    draft.publish(bytes(content.len()), pieces_of(content)).await.unwrap();
    did("publish the parts");
}

/// Goes on with what a crash has left of it, and checks that no part is gone of which anybody was told.
async fn check_parts(subject: &Subject, did: &impl Fn(&str) -> bool, at: u64) {
    let (draft, mut map) = match subject.store.resume(KEPT, kept_options(subject)).await {
        Ok(resumed) => resumed,
        Err(StoreError::Missing(_) | StoreError::Damaged(..)) => {
            assert!(!did("keep"), "a draft that was told of is gone at {at}");
            return;
        }
        Err(error) => panic!("{error:?} at {at}"),
    };
    let content = uploaded(KEPT);
    for (part, step) in PARTS {
        let gap = map.extents().first_gap(part.start as u64..part.end as u64);
        assert!(gap.is_none() || !did(step), "{step} is gone at {at}");
    }
    let mut expected = vec![0; content.len()];
    for part in map.extents().ranges() {
        let part = part.start as usize..part.end as usize;
        expected[part.clone()].copy_from_slice(&content[part]);
    }
    let mut read = draft.read_back(bytes(content.len())).await.unwrap();
    for (index, piece) in expected.chunks(PIECE as usize).enumerate() {
        assert!(read.piece(index as u64).unwrap().bytes == piece, "piece {index} at {at}");
    }
    // The rest comes, and it is whole.
    while let Some(gap) = map.extents().first_gap(0..content.len() as u64) {
        let end = gap.end - gap.end % ALIGN as u64;
        if gap.start < end {
            let part = &content[gap.start as usize..end as usize];
            draft.write_at(subject.block(part).await, 0..part.len(), gap.start).await.unwrap();
            map.add(gap.start..end, Vec::new());
        } else {
            draft.write_edge(content[gap.start as usize..gap.end as usize].to_vec(), gap.start).await.unwrap();
            map.add(gap, Vec::new());
        }
    }
    draft.publish(bytes(content.len()), pieces_of(content)).await.unwrap();
    assert!(subject.read(KEPT).await == content, "at {at}");
}

/// Stores what the steps begin with.
pub(in crate::store) async fn prepare(subject: &Subject) {
    let source = source();
    for id in [SOURCE, DOOMED] {
        upload(subject, id, source).await;
    }
}

/// Every kind of step once, each told to `did` when it is durable.
pub(in crate::store) async fn every_step(subject: &Subject, mut did: impl FnMut(&'static str)) {
    for (id, step) in [(UPLOAD, "publish"), (LARGE, "publish a large one")] {
        upload(subject, id, uploaded(id)).await;
        did(step);
    }
    upload_in_parts(subject, &mut did).await;
    subject.copy(SOURCE, CLONE).await.unwrap();
    did("clone");
    if subject.grow(SOURCE, 3 * BLOCK).await {
        did("grow");
    }
    subject.store.remove(DOOMED).await.unwrap();
    did("remove");
}

/// Checks a store that has ended after these steps, at the crash point `at`, and is open again.
pub(in crate::store) async fn check_after(subject: &Subject, did: impl Fn(&str) -> bool, at: u64) {
    if subject.is_missing(KEPT).await {
        assert!(!did("publish the parts"), "an acknowledged image is gone at {at}");
        check_parts(subject, &did, at).await;
    }
    // It needs no repair: what is visible is whole.
    let (source, mut visible) = (source(), Vec::new());
    for id in [SOURCE, UPLOAD, CLONE, DOOMED, LARGE, KEPT] {
        if subject.is_missing(id).await {
            continue;
        }
        visible.push(id);
        let read = subject.read(id).await;
        let expected = match id {
            UPLOAD | LARGE | KEPT => uploaded(id),
            _ => source,
        };
        assert!(read[..expected.len()] == *expected && is_zero(&read[expected.len()..]), "{id} at {at}");
        assert_eq!(subject.pieces(id).await, pieces_of(expected));
        let grown = id == SOURCE && read.len() == 3 * BLOCK;
        assert!(grown || read.len() == expected.len() && !(id == SOURCE && did("grow")), "{id} at {at}");
    }
    assert!(visible.contains(&SOURCE));
    assert!(visible.contains(&UPLOAD) || !did("publish"), "an acknowledged image is gone at {at}");
    assert!(visible.contains(&LARGE) || !did("publish a large one"), "an acknowledged image is gone at {at}");
    assert!(visible.contains(&CLONE) || !did("clone"), "an acknowledged clone is gone at {at}");
    assert!(!visible.contains(&DOOMED) || !did("remove"), "a removed image is back at {at}");

    let kept = visible.clone();
    subject.store.sweep(Arc::new(move |id| kept.contains(&id)), Arc::new(|_| false), UnixTime(0)).await.unwrap();
    let mut left = subject.left();
    left.sort_unstable();
    assert_eq!(left, visible.iter().map(ContentId::to_string).collect::<Vec<_>>(), "at {at}");

    // And every step can be run again.
    subject.store.remove(UPLOAD).await.unwrap();
    subject.store.remove(LARGE).await.unwrap();
    subject.store.remove(KEPT).await.unwrap();
    every_step(subject, |_| ()).await;
}
