//! Clones, what jobs hold, and drives that grow.

use super::*;

#[test]
fn a_clone_is_equal_and_independent_and_may_be_run_again() {
    on_every_store(async |subject| {
        let mut content = vec![0; 5 * BLOCK + 77];
        content[..BLOCK].copy_from_slice(&noise(BLOCK, 1));
        content[3 * BLOCK..4 * BLOCK + 5].copy_from_slice(&noise(BLOCK + 5, 2));
        let source = subject.publish(&content).await;
        let target = VolumeId::random();
        // An earlier run was cut short.
        subject.fill(&*subject.draft(target, 3 * BLOCK).await, &noise(3 * BLOCK, 3)).await;
        for _ in 0..2 {
            subject.copy(source, target).await.unwrap();
        }
        assert!(subject.read(target).await == content);
        let [sparse, copy] = [source, target].map(|id| fs::metadata(subject.image(id)).unwrap().blocks());
        assert!(copy <= sparse + 8, "the copy takes {copy} sectors, its source {sparse}");

        let file = fs::OpenOptions::new().write(true).open(subject.image(source)).unwrap();
        file.write_all_at(&[0xff; 100], 0).unwrap();
        assert!(subject.read(target).await == content);
        subject.store.remove(source).await.unwrap();
        assert!(subject.read(target).await == content);
        let image = subject.store.open(target).await.unwrap();
        assert_eq!(image.pieces().await.unwrap(), pieces_of(&content));
        let missing = subject.copy(source, VolumeId::random()).await.unwrap_err();
        assert!(matches!(missing, StoreError::Missing(id) if id == source));
        assert_eq!(subject.left(), [target.to_string()]);
    });
}

#[test]
fn what_a_job_holds_stays_as_it_was_when_its_image_is_grown_replaced_and_removed() {
    on_every_store(async |subject| {
        for size in [BLOCK + 33, 3 * BLOCK + 5] {
            let content = noise(size, 1);
            let id = subject.publish(&content).await;
            let job = JobId::random();
            if subject.store.hold(id, job).await.unwrap().is_none() {
                return println!("skipped: this file system has no hard links");
            }
            assert_eq!(subject.store.hold(id, job).await.unwrap(), Some(bytes(size)), "again is no more");
            subject.store.grow(id, bytes(9 * BLOCK)).await.unwrap();
            let other = noise(10, 2);
            let draft = subject.draft(id, other.len()).await;
            subject.fill(&*draft, &other).await;
            draft.publish(bytes(other.len()), pieces_of(&other)).await.unwrap();
            assert!(subject.read(id).await == other);
            subject.store.remove(id).await.unwrap();

            let held = Content::Held { job, of: id };
            assert_eq!(subject.store.open_held(job, id).await.unwrap().pieces().await.unwrap(), pieces_of(&content));
            for larger in [0, 3 * BLOCK] {
                let copy = VolumeId::random();
                subject.store.clone_image(held, copy, bytes(size + larger), record()).await.unwrap();
                let read = subject.read(copy).await;
                assert_eq!(read.len(), size + larger);
                assert!(read[..size] == content && is_zero(&read[size..]));
                subject.store.remove(copy).await.unwrap();
            }
            assert_eq!(subject.store.sweep_held(Arc::new(move |kept| kept == job)).await.unwrap(), 0);
            assert_eq!(subject.left(), [job.to_string()]);
            if size > 2 * BLOCK {
                assert_eq!(subject.store.sweep_held(Arc::new(|_| false)).await.unwrap(), 1);
            } else {
                for _ in 0..2 {
                    subject.store.release(job).await.unwrap();
                }
            }
            assert!(
                matches!(subject.store.open_held(job, id).await, Err(StoreError::Missing(missing)) if missing == id)
            );
            assert_eq!(subject.left(), [""; 0]);
        }
        let missing = subject.store.hold(VolumeId::random(), JobId::random()).await;
        assert!(matches!(missing, Err(StoreError::Missing(_))));
    });
}

#[test]
fn a_grown_drive_keeps_its_bytes_and_pieces_and_reads_zero_behind_them() {
    on_every_store(async |subject| {
        let content = noise(BLOCK + 33, 1);
        let id = subject.publish(&content).await;
        for _ in 0..2 {
            subject.store.grow(id, bytes(9 * BLOCK)).await.unwrap();
        }
        let read = subject.read(id).await;
        assert_eq!(read.len(), 9 * BLOCK);
        assert!(read[..content.len()] == content[..] && is_zero(&read[content.len()..]));
        let image = subject.store.open(id).await.unwrap();
        assert_eq!(image.pieces().await.unwrap(), pieces_of(&content));
        assert!(subject.store.grow(id, bytes(1)).await.is_err());
        assert!(matches!(subject.store.grow(VolumeId::random(), bytes(1)).await, Err(StoreError::Missing(_))));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_shares_its_extents_where_the_file_system_can() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(512 << 20).unwrap();
    let made = Command::new("mkfs.xfs").args(["-q", "-f", "-m", "reflink=1"]).arg(image.path()).output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: cannot make an XFS file system");
        return;
    }
    let path = image.path().to_str().unwrap();
    let Some(disk) = Mounted::new(&["-o", "loop", path]) else { return };
    probe::reflink(disk.path()).unwrap();
    let subject = Subject::new(String::new(), disk.path().join("store"), IoEngine::threads(1), Direct::Auto);
    let content = noise(64 * BLOCK, 1);
    let source = subject.publish(&content).await;
    let before = probe::free_space(disk.path()).unwrap().get();
    let target = VolumeId::random();
    subject.copy(source, target).await.unwrap();
    let taken = before - probe::free_space(disk.path()).unwrap().get();
    assert!(taken < 8 << 20, "{taken} B were copied");
    assert!(subject.read(target).await == content);
}
