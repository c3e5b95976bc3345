//! Writes that fail.

use super::*;
use crate::domain::Pieces;
use crate::io::{BLOCK, Faults, Threads};
use crate::store::conformance::{bytes, noise};

#[tokio::test]
async fn a_failed_write_is_told_and_loses_the_draft() {
    let faults = Arc::new(Faults::default());
    let subject = Local::temporary(IoEngine::Threads(Threads::faulty(1, &faults)), Direct::Never);
    let id = ContentId::random();
    let draft = subject.draft(id, BLOCK).await;
    faults.write.store(Errno::IO.raw_os_error(), Ordering::SeqCst);
    let data = subject.block(&noise(BLOCK, 1)).await;
    assert!(draft.write_at(data, 0..BLOCK, 0).await.is_err());
    faults.write.store(0, Ordering::SeqCst);
    assert!(draft.publish(bytes(BLOCK), Pieces::default()).await.is_err());
    assert!(subject.is_missing(id).await);
}
