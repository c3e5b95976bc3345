//! The place that a store has on a disk: whose it is, and what becomes of a full one.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::io::BLOCK;
use crate::store::conformance::noise;

#[test]
fn nobody_but_the_owner_may_look_into_the_store() {
    on_every_local(async |local| {
        let small = local.publish(&noise(10, 1)).await;
        let large = local.publish(&noise(3 * BLOCK, 1)).await;
        for (path, mode) in [
            (local.root.clone(), 0o700),
            (local.root.join("drives"), 0o700),
            (local.image(small), 0o600),
            (local.drive(large), 0o700),
            (local.image(large), 0o600),
            (local.drive(large).join("pieces"), 0o600),
        ] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
    });
}

#[test]
fn more_than_the_disk_has_is_not_reserved() {
    on_every_local(async |local| {
        let free = probe::free_space(&local.root).unwrap().get();
        let all_but = |bytes: u64| ByteCount::new(free - bytes).unwrap();
        let held = local.store.space().reserve(all_but(2 << 30)).unwrap();
        assert!(matches!(local.store.space().reserve(all_but(2 << 30)), Err(StoreError::NoSpace)));
        drop(held);
        drop(local.store.space().reserve(all_but(2 << 30)).unwrap());
        assert!(matches!(local.store.space().reserve(ByteCount::MAX), Err(StoreError::NoSpace)));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_no_space_and_leaves_nothing() {
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=16m", "longshore-test"]) else { return };
    for engine in [Some(IoEngine::threads(2)), IoEngine::ring(1).ok()].into_iter().flatten() {
        let local = Local::at(disk.path().join("store"), engine, Direct::Never);
        assert!(matches!(local.store.space().reserve(ByteCount::mib(17)), Err(StoreError::NoSpace)));
        let before = probe::free_space(disk.path()).unwrap();

        // More is written than was set aside, as no caller should.
        let id = ContentId::random();
        let draft = local.draft(id, BLOCK).await;
        let mut outcome = Ok(());
        for n in 0..10 {
            let data = local.block(&noise(BLOCK, n)).await;
            outcome = outcome.and(draft.write_at(data, 0..BLOCK, (n * BLOCK) as u64).await);
        }
        assert!(matches!(StoreError::from(outcome.unwrap_err()), StoreError::NoSpace));
        assert!(draft.publish(ByteCount::mib(20), Pieces::default()).await.is_err());
        drop(draft);
        local.store.remove(id).await.unwrap();
        assert_eq!(local.left(), [""; 0]);
        assert_eq!(probe::free_space(disk.path()).unwrap(), before);

        // A copy asks before it writes.
        let source = local.publish(&noise(5 * BLOCK, 1)).await;
        let target = ContentId::random();
        assert!(matches!(local.copy(source, target).await, Err(StoreError::NoSpace)));
        assert!(local.is_missing(target).await);
        local.store.remove(target).await.unwrap();
        local.store.remove(source).await.unwrap();
        assert_eq!(probe::free_space(disk.path()).unwrap(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_shares_its_extents_where_the_file_system_can() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(512 << 20).unwrap();
    let made = Command::new("mkfs.xfs").args(["-q", "-f", "-m", "reflink=1"]).arg(image.path()).output();
    if !made.is_ok_and(|output| output.status.success()) {
        return skipped("this machine does not make XFS file systems");
    }
    let path = image.path().to_str().unwrap();
    let Some(disk) = Mounted::new(&["-o", "loop", path]) else { return };
    probe::reflink(disk.path()).unwrap();
    let local = Local::at(disk.path().join("store"), IoEngine::threads(1), Direct::Auto);
    assert!(local.store.capabilities().shares_clones);
    let content = noise(64 * BLOCK, 1);
    let source = local.publish(&content).await;
    let before = probe::free_space(disk.path()).unwrap().get();
    let target = ContentId::random();
    local.copy(source, target).await.unwrap();
    let taken = before - probe::free_space(disk.path()).unwrap().get();
    assert!(taken < 8 << 20, "{taken} B were copied");
    assert!(local.read(target).await == content);
}
