//! What is being written: seen by nobody, published once and whole.

use super::*;

#[test]
fn a_draft_has_the_size_it_is_published_with_whatever_was_expected() {
    on_every_store(async |subject| {
        for expected in [None, Some(ByteCount::ZERO), Some(ByteCount::mib(64)), Some(ByteCount::MAX)] {
            let id = ContentId::random();
            let reservation = subject.store.space().reserve(ByteCount::mib(1)).unwrap();
            let draft = subject
                .store
                .draft(id, DraftOptions { expected, reservation, record: record(), is_kept: false })
                .await
                .unwrap();
            subject.fill(&*draft, &noise(5000, 1)).await;
            draft.publish(bytes(5000), Pieces::default()).await.unwrap();
            assert!(subject.read(id).await == noise(5000, 1), "{expected:?}");
        }
    });
}

/// The block that carries a last write carried another tenant's bytes before.
#[test]
fn a_last_write_with_an_earlier_user_s_bytes_behind_it_is_refused() {
    on_every_store(async |subject| {
        let draft = subject.draft(ContentId::random(), 100).await;
        let mut block = subject.pool.take().await;
        block.fill(0xee);
        assert!(draft.write_at(block.freeze(), 0..100, 0).await.is_err());
    });
}

#[test]
fn a_draft_is_invisible_until_published_and_leaves_nothing_when_removed() {
    on_every_store(async |subject| {
        let id = ContentId::random();
        let draft = subject.draft(id, BLOCK).await;
        subject.fill(&*draft, &noise(BLOCK, 1)).await;
        assert!(subject.is_missing(id).await);
        drop(draft);
        assert!(subject.is_missing(id).await);
        subject.store.remove(id).await.unwrap();
        assert_eq!(subject.left(), [""; 0]);
    });
}

#[test]
fn a_draft_replaces_what_an_earlier_attempt_left() {
    on_every_store(async |subject| {
        let id = ContentId::random();
        subject.fill(&*subject.draft(id, BLOCK).await, &noise(BLOCK, 1)).await;
        let draft = subject.draft(id, 10).await;
        subject.fill(&*draft, &noise(10, 2)).await;
        draft.publish(bytes(BLOCK), Pieces::default()).await.unwrap();
        let read = subject.read(id).await;
        assert!(read[..10] == noise(10, 2)[..] && is_zero(&read[10..]));
        assert_eq!(subject.left(), [id.to_string()]);
    });
}

#[test]
fn what_was_published_is_not_changed_by_another_draft_under_its_id() {
    on_every_store(async |subject| {
        // A store may keep small ones otherwise than large ones: each over each.
        for (old, new) in [(BLOCK, BLOCK + 5), (3 * BLOCK, BLOCK), (BLOCK, 3 * BLOCK), (3 * BLOCK, 3 * BLOCK + 1)] {
            let (before, after) = (noise(old, 1), noise(new, 2));
            let id = subject.publish(&before).await;
            let draft = subject.draft(id, new).await;
            subject.fill(&*draft, &after).await;
            assert!(matches!(draft.publish(bytes(new), pieces_of(&after)).await, Err(StoreError::Io(_))));
            assert!(subject.read(id).await == before);
            assert_eq!(subject.pieces(id).await, pieces_of(&before));
            subject.store.remove(id).await.unwrap();
            assert_eq!(subject.left(), [""; 0]);
        }
    });
}

#[test]
fn a_draft_with_a_write_that_never_told_its_end_is_not_published() {
    on_every_store(async |subject| {
        let id = ContentId::random();
        let draft = subject.draft(id, BLOCK).await;
        let data = subject.block(&noise(BLOCK, 1)).await;
        drop(draft.write_at(data, 0..BLOCK, 0));
        assert!(draft.publish(bytes(BLOCK), Pieces::default()).await.is_err());
        assert!(subject.is_missing(id).await);
        // The write goes on; its block comes home with it.
        let mut blocks = Vec::new();
        while blocks.len() < subject.pool.budget_blocks() {
            blocks.push(subject.pool.take().await);
        }
    });
}

#[test]
fn a_draft_is_published_once() {
    on_every_store(async |subject| {
        let id = ContentId::random();
        let draft = subject.draft(id, 1).await;
        draft.publish(bytes(1), Pieces::default()).await.unwrap();
        assert!(draft.publish(bytes(2), Pieces::default()).await.is_err());
        assert_eq!(subject.store.open(id).await.unwrap().size(), bytes(1));
    });
}

#[test]
fn a_draft_replaces_a_leftover_of_any_size() {
    on_every_store(async |subject| {
        let id = ContentId::random();
        for size in [10, 3 * BLOCK, 10, 3 * BLOCK] {
            let draft = subject.draft(id, size).await;
            subject.fill(&*draft, &noise(size, 1)).await;
        }
        let content = noise(20, 2);
        let draft = subject.draft(id, content.len()).await;
        subject.fill(&*draft, &content).await;
        draft.publish(bytes(content.len()), pieces_of(&content)).await.unwrap();
        assert!(subject.read(id).await == content);
        assert_eq!(subject.left(), [id.to_string()]);
    });
}

#[test]
fn a_written_or_skipped_byte_is_settled() {
    on_every_store(async |subject| {
        let reservation = subject.store.space().reserve(bytes(2 * BLOCK)).unwrap();
        let options = DraftOptions { expected: None, reservation, record: record(), is_kept: false };
        let draft = subject.store.draft(ContentId::random(), options).await.unwrap();
        assert_eq!(outstanding(subject), "Ledger(4194304 B outstanding)");
        subject.fill(&*draft, &noise(BLOCK, 1)).await;
        assert_eq!(outstanding(subject), "Ledger(2097152 B outstanding)");
        let zeros = subject.block(&vec![0; BLOCK]).await;
        draft.write_at(zeros, 0..BLOCK, BLOCK as u64).await.unwrap();
        assert_eq!(outstanding(subject), "Ledger(0 B outstanding)");
        draft.reserve_more(bytes(5)).unwrap();
        assert_eq!(outstanding(subject), "Ledger(5 B outstanding)");
        drop(draft);
        assert_eq!(outstanding(subject), "Ledger(0 B outstanding)");
    });
}

#[test]
fn while_the_last_room_is_for_what_removes_nothing_is_written_and_everything_is_removed() {
    on_every_store(async |subject| {
        let [id, clone] = [(); 2].map(|()| ContentId::random());
        let whole = subject.publish(&noise(10, 3)).await;
        let content = noise(BLOCK, 1);
        let draft = subject.draft(id, 2 * BLOCK).await;
        let block = subject.block(&content).await;
        draft.write_at(block.clone(), 0..BLOCK, 0).await.unwrap();
        let shortage = subject.store.space().shortage();
        shortage.set(true);
        let refused = draft.write_at(block, 0..BLOCK, BLOCK as u64).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        let cloned = subject.copy(whole, clone).await;
        assert!(matches!(cloned, Err(StoreError::NoSpace)), "{cloned:?}");
        subject.store.remove(whole).await.unwrap();
        shortage.set(false);
        // As after any write that failed.
        assert!(draft.publish(bytes(BLOCK), pieces_of(&content)).await.is_err());
        drop(draft);
        subject.store.remove(id).await.unwrap();
        assert!(subject.left().is_empty());
        let next = subject.publish(&content).await;
        assert!(subject.read(next).await == content);
    });
}

fn outstanding(subject: &Subject) -> String {
    format!("{:?}", subject.store.space())
}
