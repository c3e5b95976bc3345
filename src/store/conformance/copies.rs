//! Clones, what an earlier version held for them, and drives that grow.

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
        let [sparse, copy] = [source, target].map(|id| fs::metadata(subject.image(id)).unwrap().blocks());
        assert!(copy <= sparse + 8, "the copy takes {copy} sectors, its source {sparse}");

        let file = fs::OpenOptions::new().write(true).open(subject.image(source)).unwrap();
        file.write_all_at(&[0xff; 100], 0).unwrap();
        assert!(subject.read(target).await == content);
        subject.store.remove(source).await.unwrap();
        assert!(subject.read(target).await == content);
        let image = subject.store.open(target).await.unwrap();
        assert_eq!(image.pieces().await.unwrap(), pieces_of(&content));
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
            subject.store.grow(id, bytes(9 * BLOCK)).await.unwrap();
            for larger in [0, 3 * BLOCK] {
                let copy = ContentId::random();
                subject.store.clone_image(id, copy, bytes(size + larger), record()).await.unwrap();
                let read = subject.read(copy).await;
                assert_eq!(read.len(), size + larger);
                assert!(read[..size] == content && is_zero(&read[size..]));
                assert_eq!(subject.store.open(copy).await.unwrap().pieces().await.unwrap(), pieces_of(&content));
                subject.store.remove(copy).await.unwrap();
            }
            subject.store.remove(id).await.unwrap();
            assert_eq!(subject.left(), [""; 0]);
        }
    });
}

/// What an earlier version had linked for its jobs.
#[test]
fn what_was_held_for_a_job_is_a_content_of_its_own_and_what_no_job_wants_goes() {
    on_every_store(async |subject| {
        let held = subject.root.join("held");
        fs::create_dir(&held).unwrap();
        let [small, large] = [noise(10, 1), noise(3 * BLOCK, 2)];
        let of = [subject.publish(&small).await, subject.publish(&large).await, subject.publish(&small).await];
        let jobs = of.map(|_| ContentId::random());
        for (job, image) in jobs.iter().zip(of) {
            let (from, to) = (subject.drive(image), held.join(job.to_string()));
            if from.is_dir() {
                fs::create_dir(&to).unwrap();
                for name in ["image", "pieces"] {
                    fs::hard_link(from.join(name), to.join(name)).unwrap();
                }
            } else {
                fs::hard_link(from, to).unwrap();
            }
        }
        for _ in 0..2 {
            subject.store.take_over_held(move |id| id != jobs[2]).await.unwrap();
        }
        for id in of {
            subject.store.remove(id).await.unwrap();
        }
        assert!(!held.exists() && subject.is_missing(jobs[2]).await);
        for (id, content) in jobs.into_iter().zip([small, large]) {
            assert!(subject.read(id).await == content);
            assert_eq!(subject.store.open(id).await.unwrap().pieces().await.unwrap(), pieces_of(&content));
        }
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
        assert!(matches!(subject.store.grow(ContentId::random(), bytes(1)).await, Err(StoreError::Missing(_))));
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
    let target = ContentId::random();
    subject.copy(source, target).await.unwrap();
    let taken = before - probe::free_space(disk.path()).unwrap().get();
    assert!(taken < 8 << 20, "{taken} B were copied");
    assert!(subject.read(target).await == content);
}
