//! A store that ends at any moment leaves whole images, and leftovers that a sweep removes.
//!
//! How it is made to end is known to the tests of each store.

use super::*;

const SOURCE: ContentId = ContentId::from_bytes([1; 16]);
const UPLOAD: ContentId = ContentId::from_bytes([2; 16]);
const CLONE: ContentId = ContentId::from_bytes([3; 16]);
const DOOMED: ContentId = ContentId::from_bytes([4; 16]);
const LARGE: ContentId = ContentId::from_bytes([5; 16]);

/// What there is before the steps.
fn source() -> Vec<u8> {
    noise(2 * BLOCK, 1)
}

/// What is uploaded as this image: a small one or a large one, which a store may keep in other ways.
fn uploaded(id: ContentId) -> Vec<u8> {
    noise(if id == LARGE { 3 * BLOCK + 9 } else { BLOCK + 9 }, 2)
}

async fn upload(subject: &Subject, id: ContentId, content: &[u8]) {
    let draft = subject.draft(id, content.len()).await;
    subject.fill(&*draft, content).await;
    draft.publish(bytes(content.len()), pieces_of(content)).await.unwrap();
}

/// Stores what the steps begin with.
pub(in crate::store) async fn prepare(subject: &Subject) {
    let source = source();
    for id in [SOURCE, DOOMED] {
        upload(subject, id, &source).await;
    }
}

/// Every kind of step once, each told to `did` when it is durable.
pub(in crate::store) async fn every_step(subject: &Subject, mut did: impl FnMut(&'static str)) {
    for (id, step) in [(UPLOAD, "publish"), (LARGE, "publish a large one")] {
        upload(subject, id, &uploaded(id)).await;
        did(step);
    }
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
    // It needs no repair: what is visible is whole.
    let (source, mut visible) = (source(), Vec::new());
    for id in [SOURCE, UPLOAD, CLONE, DOOMED, LARGE] {
        if subject.is_missing(id).await {
            continue;
        }
        visible.push(id);
        let read = subject.read(id).await;
        let expected = match id {
            UPLOAD | LARGE => uploaded(id),
            _ => source.clone(),
        };
        assert!(read[..expected.len()] == expected[..] && is_zero(&read[expected.len()..]), "{id} at {at}");
        assert_eq!(subject.pieces(id).await, pieces_of(&expected));
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
    every_step(subject, |_| ()).await;
}
