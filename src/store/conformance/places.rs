//! The place that a store has on a disk: whose it is, and what becomes of a full one.

use super::*;

#[test]
fn nobody_but_the_owner_may_look_into_the_store() {
    on_every_store(async |subject| {
        let small = subject.publish(&noise(10, 1)).await;
        let large = subject.publish(&noise(3 * BLOCK, 1)).await;
        for (path, mode) in [
            (subject.root.clone(), 0o700),
            (subject.root.join("drives"), 0o700),
            (subject.image(small), 0o600),
            (subject.drive(large), 0o700),
            (subject.image(large), 0o600),
            (subject.drive(large).join("pieces"), 0o600),
        ] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
    });
}

#[test]
fn more_than_the_disk_has_is_not_reserved() {
    on_every_store(async |subject| {
        let free = probe::free_space(&subject.root).unwrap().get();
        let all_but = |bytes: u64| ByteCount::new(free - bytes).unwrap();
        let held = subject.store.reserve(all_but(2 << 30)).unwrap();
        assert!(matches!(subject.store.reserve(all_but(2 << 30)), Err(StoreError::NoSpace)));
        drop(held);
        drop(subject.store.reserve(all_but(2 << 30)).unwrap());
        assert!(matches!(subject.store.reserve(ByteCount::MAX), Err(StoreError::NoSpace)));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_no_space_and_leaves_nothing() {
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=16m", "longshore-test"]) else { return };
    for engine in [Some(IoEngine::threads(2)), IoEngine::ring(1).ok()].into_iter().flatten() {
        let subject = Subject::new(String::new(), disk.path().join("store"), engine, Direct::Never);
        assert!(matches!(subject.store.reserve(ByteCount::mib(17)), Err(StoreError::NoSpace)));
        let before = probe::free_space(disk.path()).unwrap();

        // More is written than was set aside, as no caller should.
        let id = ContentId::random();
        let draft = subject.draft(id, BLOCK).await;
        let mut outcome = Ok(());
        for n in 0..10 {
            let data = subject.block(&noise(BLOCK, n)).await;
            outcome = outcome.and(draft.write_at(data, 0..BLOCK, (n * BLOCK) as u64).await);
        }
        assert!(matches!(StoreError::from(outcome.unwrap_err()), StoreError::NoSpace));
        assert!(draft.publish(ByteCount::mib(20), Pieces::default()).await.is_err());
        drop(draft);
        subject.store.remove(id).await.unwrap();
        assert_eq!(subject.left(), [""; 0]);
        assert_eq!(probe::free_space(disk.path()).unwrap(), before);

        // A copy asks before it writes.
        let source = subject.publish(&noise(5 * BLOCK, 1)).await;
        let target = ContentId::random();
        assert!(matches!(subject.copy(source, target).await, Err(StoreError::NoSpace)));
        assert!(subject.is_missing(target).await);
        subject.store.remove(target).await.unwrap();
        subject.store.remove(source).await.unwrap();
        assert_eq!(probe::free_space(disk.path()).unwrap(), before);
    }
}
