//! Writes and flushes that fail.

use super::*;

/// Linux tells a lost write-back once. A store that asked again would hear that all is well.
#[tokio::test]
async fn a_failed_flush_loses_the_draft_for_good() {
    let subject = Subject::temporary(IoEngine::threads(1), Direct::Never);
    let id = ContentId::random();
    let draft = subject.draft(id, BLOCK).await;
    subject.fill(&*draft, &noise(BLOCK, 1)).await;
    subject.store.fail_next_flush(Errno::IO.raw_os_error());
    assert!(matches!(draft.publish(bytes(BLOCK), Pieces::default()).await, Err(StoreError::Io(_))));
    assert!(draft.publish(bytes(BLOCK), Pieces::default()).await.is_err(), "a second flush was believed");
    assert!(subject.is_missing(id).await);
    subject.store.remove(id).await.unwrap();
    assert_eq!(subject.left(), [""; 0]);
}

#[tokio::test]
async fn a_flush_that_finds_the_disk_full_is_no_space() {
    let subject = Subject::temporary(IoEngine::threads(1), Direct::Never);
    let draft = subject.draft(ContentId::random(), 1).await;
    subject.store.fail_next_flush(Errno::NOSPC.raw_os_error());
    assert!(matches!(draft.publish(bytes(1), Pieces::default()).await, Err(StoreError::NoSpace)));
}

#[tokio::test]
async fn a_failed_write_is_told_and_loses_the_draft() {
    let faults = Arc::new(Faults::default());
    let subject = Subject::temporary(IoEngine::Threads(Threads::faulty(1, &faults)), Direct::Never);
    let id = ContentId::random();
    let draft = subject.draft(id, BLOCK).await;
    faults.write.store(Errno::IO.raw_os_error(), Ordering::SeqCst);
    let data = subject.block(&noise(BLOCK, 1)).await;
    assert!(draft.write_at(data, 0..BLOCK, 0).await.is_err());
    faults.write.store(0, Ordering::SeqCst);
    assert!(draft.publish(bytes(BLOCK), Pieces::default()).await.is_err());
    assert!(subject.is_missing(id).await);
}
