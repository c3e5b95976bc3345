//! Clones, and images that grow.

use super::*;

#[test]
fn a_clone_is_equal_and_independent_and_may_be_run_again() {
    on_every_store(async |subject| {
        let mut content = vec![0; 5 * BLOCK + 77];
        content[..BLOCK].copy_from_slice(&noise(BLOCK, 1));
        content[3 * BLOCK..4 * BLOCK + 5].copy_from_slice(&noise(BLOCK + 5, 2));
        let source = subject.publish(&content).await;
        let target = ContentId::random();
        // An earlier run was cut short.
        subject.fill(&*subject.draft(target, 3 * BLOCK).await, &noise(3 * BLOCK, 3)).await;
        for _ in 0..2 {
            subject.copy(source, target).await.unwrap();
        }
        assert!(subject.read(target).await == content);
        let [sparse, copy] = [source, target].map(|id| subject.outside.takes(id));
        assert!(copy <= sparse + 4096, "the copy takes {copy} B, its source {sparse}");

        subject.outside.spoil(source, 0, &[0xff; 100]);
        assert!(subject.read(target).await == content);
        subject.store.remove(source).await.unwrap();
        assert!(subject.read(target).await == content);
        assert_eq!(subject.pieces(target).await, pieces_of(&content));
        let missing = subject.copy(source, ContentId::random()).await.unwrap_err();
        assert!(matches!(missing, StoreError::Missing(id) if id == source));
        assert_eq!(subject.left(), [target.to_string()]);
    });
}

#[test]
fn a_copy_of_an_image_that_was_grown_has_its_first_bytes_and_zeros_behind_them() {
    on_every_store(async |subject| {
        for size in [BLOCK + 33, 3 * BLOCK + 5] {
            let content = noise(size, 1);
            let id = subject.publish(&content).await;
            subject.grow(id, 9 * BLOCK).await;
            for larger in [0, 3 * BLOCK] {
                let copy = ContentId::random();
                subject.store.clone_image(id, copy, bytes(size + larger), record()).await.unwrap();
                let read = subject.read(copy).await;
                assert_eq!(read.len(), size + larger);
                assert!(read[..size] == content && is_zero(&read[size..]));
                assert_eq!(subject.pieces(copy).await, pieces_of(&content));
                subject.store.remove(copy).await.unwrap();
            }
            subject.store.remove(id).await.unwrap();
            assert_eq!(subject.left(), [""; 0]);
        }
    });
}

#[test]
fn a_grown_drive_keeps_its_bytes_and_pieces_and_reads_zero_behind_them() {
    on_every_store(async |subject| {
        let content = noise(BLOCK + 33, 1);
        let id = subject.publish(&content).await;
        for _ in 0..2 {
            if !subject.grow(id, 9 * BLOCK).await {
                return;
            }
        }
        let read = subject.read(id).await;
        assert_eq!(read.len(), 9 * BLOCK);
        assert!(read[..content.len()] == content[..] && is_zero(&read[content.len()..]));
        assert_eq!(subject.pieces(id).await, pieces_of(&content));
        assert!(subject.store.grow(id, bytes(1)).await.is_err());
        assert!(matches!(subject.store.grow(ContentId::random(), bytes(1)).await, Err(StoreError::Missing(_))));
    });
}
