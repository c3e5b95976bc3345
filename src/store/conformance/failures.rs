//! Flushes that fail.

use super::*;

/// Linux tells a lost write-back once. A store that asked again would hear that all is well.
#[test]
fn a_failed_flush_loses_the_draft_for_good() {
    on_every_store(async |subject| {
        let id = ContentId::random();
        let draft = subject.draft(id, BLOCK).await;
        subject.fill(&*draft, &noise(BLOCK, 1)).await;
        subject.outside.fail_next_flush(Errno::IO);
        assert!(matches!(draft.publish(bytes(BLOCK), Pieces::default()).await, Err(StoreError::Io(_))));
        assert!(draft.publish(bytes(BLOCK), Pieces::default()).await.is_err(), "a second flush was believed");
        assert!(subject.is_missing(id).await);
        subject.store.remove(id).await.unwrap();
        assert_eq!(subject.left(), [""; 0]);
    });
}

#[test]
fn a_flush_that_finds_the_disk_full_is_no_space() {
    on_every_store(async |subject| {
        let draft = subject.draft(ContentId::random(), 1).await;
        subject.outside.fail_next_flush(Errno::NOSPC);
        assert!(matches!(draft.publish(bytes(1), Pieces::default()).await, Err(StoreError::NoSpace)));
    });
}
