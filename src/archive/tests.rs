//! Backups and restores in a local directory, interrupted anywhere, and removed.

use std::fs;
use std::time::Duration;

use proptest::prelude::*;

use super::testing::{CHUNK, MemorySink, MemorySource, has_files, head_of, noise, scene, settings, within_polls};
use super::{
    Archive, ArchiveError, BackupHead, BackupProgress, CHUNK_SIZE, NotAStorageUrl, Storage, StorageUrl, Written,
};
use crate::domain::{BackupId, ByteCount, TenantId};
use crate::io::Pool;

/// Returns chunks of data, of zeros and of both, and a shorter last chunk.
fn sample() -> Vec<u8> {
    let chunk = CHUNK as usize;
    [
        noise(chunk, 1),
        vec![0; 2 * chunk],
        noise(chunk / 2, 2),
        vec![0; chunk / 2],
        vec![0; chunk - 4096],
        noise(4096, 3),
        noise(chunk, 4),
        noise(1234, 5),
    ]
    .concat()
}

/// The numbers of the sample's chunks that have objects.
const OBJECTS: [u64; 5] = [1, 4, 5, 6, 7];

#[tokio::test]
async fn a_backup_comes_back_and_only_chunks_that_hold_data_have_objects() {
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    let mut reports = Vec::new();
    let source = MemorySource::new(&data);
    let written = scene.archive.write(&head, &source, |progress| reports.push(progress)).await.unwrap();
    assert_eq!(source.reads(), 5, "one for each chunk with data, none for holes");
    assert_eq!(written.objects, 5);

    let mut expected: Vec<_> = OBJECTS.iter().map(|number| scene.object(&head, *number)).collect();
    let stored: u64 = expected.iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(written.stored, stored);
    expected.push(scene.manifest(&head));
    expected.sort();
    assert_eq!(scene.files(), expected);

    assert_eq!(reports.len(), 7);
    assert_eq!(reports.last(), Some(&BackupProgress { done: data.len() as u64, objects: 5 }));
    assert!(reports.is_sorted_by_key(|progress| progress.done));

    assert!(scene.restore(&head).await.unwrap() == data);
    let manifest = scene.archive.head(&head).await.unwrap();
    assert_eq!((&manifest.head, manifest.written()), (&head, written));
    assert_eq!(scene.pool.in_use(), 0);
}

#[tokio::test]
async fn while_the_last_room_is_for_what_removes_nothing_is_put_and_everything_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let settings = settings(Storage::Directory(root.path().join("b")), 1);
    let shortage = settings.shortage.clone();
    let archive = Archive::open(&settings, Pool::new(ByteCount::mib(2)), tokio_util::task::TaskTracker::new()).unwrap();
    let (data, other) = (noise(100, 1), noise(100, 2));
    let (head, next) = (head_of(&data), head_of(&other));
    archive.write(&head, &MemorySource::new(&data), |_| ()).await.unwrap();
    shortage.set(true);
    let refused = archive.write(&next, &MemorySource::new(&other), |_| ()).await;
    assert!(matches!(refused, Err(ArchiveError::Full(_))), "{refused:?}");
    archive.delete(&head).await.unwrap();
    assert!(!has_files(root.path()));
    shortage.set(false);
    archive.write(&next, &MemorySource::new(&other), |_| ()).await.unwrap();
}

#[tokio::test]
async fn an_empty_drive_and_a_blank_one_are_a_manifest() {
    let scene = scene();
    for data in [vec![], vec![0; 10 * CHUNK as usize + 1]] {
        let head = head_of(&data);
        assert_eq!(scene.back_up(&head, &data).await.unwrap(), Written::default());
        assert!(scene.restore(&head).await.unwrap() == data);
        scene.archive.delete(&head).await.unwrap();
    }
}

#[tokio::test]
async fn chunks_of_the_real_size_pass_through_few_blocks() {
    let root = tempfile::tempdir().unwrap();
    let pool = Pool::new(ByteCount::mib(4));
    let settings = settings(Storage::Directory(root.path().join("b")), 1);
    let archive = Archive::open(&settings, pool, tokio_util::task::TaskTracker::new()).unwrap();
    let mut data = noise(CHUNK_SIZE as usize + 100_000, 9);
    data[3 << 20..20 << 20].fill(0);
    let head = head_of(&data);
    let written = archive.write(&head, &MemorySource::new(&data), |_| ()).await.unwrap();
    assert_eq!(written.objects, 2);
    assert!(written.stored < 36 << 20);
    assert!(super::testing::restore(&archive, &head).await.unwrap() == data);
}

#[tokio::test]
async fn a_backup_cut_short_at_any_read_goes_on_at_the_next_object() {
    let data = sample();
    for stall in 0..OBJECTS.len() as u64 {
        let scene = scene();
        let head = head_of(&data);
        let first = MemorySource { stalls_at: Some(stall), ..MemorySource::new(&data) };
        tokio::select! {
            result = scene.archive.write(&head, &first, |_| ()) => panic!("it stalls, but {result:?}"),
            () = first.stalled.notified() => {}
        }
        assert!(matches!(scene.restore(&head).await, Err(ArchiveError::Missing)), "there is no backup yet");
        scene.puts_have_ended().await;
        let there = scene.files().len() as u64;
        assert_eq!(there, stall, "all that were read before are stored");

        let second = MemorySource::new(&data);
        assert_eq!(scene.archive.write(&head, &second, |_| ()).await.unwrap().objects, 5);
        assert_eq!(second.reads(), 5 - there, "none is read again");
        assert!(scene.restore(&head).await.unwrap() == data);
    }
}

#[tokio::test]
async fn a_backup_dropped_at_any_time_is_written_by_another_run_or_removed_without_a_trace() {
    let data = sample();
    let mut polls = 0;
    loop {
        let scene = scene();
        let head = head_of(&data);
        let first = within_polls(polls, scene.back_up(&head, &data)).await;
        if polls % 2 == 0 {
            scene.back_up(&head, &data).await.unwrap();
            assert!(scene.restore(&head).await.unwrap() == data, "after {polls} polls");
        }
        scene.archive.delete(&head).await.unwrap();
        scene.puts_have_ended().await;
        assert!(!has_files(scene.root.path()), "after {polls} polls");
        // A step of compression may still hold a block, and returns it at its end.
        let idle = async {
            while scene.pool.in_use() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), idle).await.expect("every block comes back");
        if first.is_some() && polls % 2 == 0 {
            break;
        }
        polls += 1;
    }
    assert!(polls > 10, "it was dropped at {polls} places only");
}

#[tokio::test]
async fn runs_dropped_again_and_again_come_to_an_end() {
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    let mut runs = 0;
    let mut state = 1_u32;
    loop {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        runs += 1;
        if let Some(result) = within_polls(10 + (state >> 27), scene.back_up(&head, &data)).await {
            assert_eq!(result.unwrap().objects, 5);
            break;
        }
        assert!(runs < 1000, "no run gets further than the one before");
    }
    assert!(scene.restore(&head).await.unwrap() == data);
}

#[tokio::test]
async fn a_run_after_the_end_reads_nothing_and_says_the_same() {
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    let written = scene.back_up(&head, &data).await.unwrap();
    let source = MemorySource::new(&data);
    let relabelled = BackupHead { name: Some("other".to_owned()), ..head.clone() };
    assert_eq!(scene.archive.write(&relabelled, &source, |_| ()).await.unwrap(), written);
    assert_eq!(source.reads(), 0);
}

#[tokio::test]
async fn another_backup_in_its_place_is_not_written_over() {
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    scene.back_up(&head, &data).await.unwrap();
    for other in [
        BackupHead { backup: BackupId::random(), ..head.clone() },
        BackupHead { tenant: TenantId::random(), ..head.clone() },
    ] {
        assert!(matches!(scene.back_up(&other, &data).await, Err(ArchiveError::Conflict)));
        assert!(matches!(scene.restore(&other).await, Err(ArchiveError::Damaged(_))));
    }
    assert!(scene.restore(&head).await.unwrap() == data);
}

#[tokio::test]
async fn two_runs_at_once_write_one_backup() {
    let data = sample();
    for delay in 0..20 {
        let scene = scene();
        let head = head_of(&data);
        let late = async {
            for _ in 0..delay {
                tokio::task::yield_now().await;
            }
            scene.back_up(&head, &data).await
        };
        let (one, two) = tokio::join!(scene.back_up(&head, &data), late);
        assert_eq!(one.unwrap(), two.unwrap());
        assert!(scene.restore(&head).await.unwrap() == data);
    }
}

#[tokio::test]
async fn an_object_that_another_left_is_written_again() {
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    scene.back_up(&head, &data).await.unwrap();
    let other = BackupHead { backup: BackupId::random(), ..head.clone() };
    fs::remove_file(scene.manifest(&head)).unwrap();
    // The objects are now those of the other backup, of another chunk, cut short, empty, and no object at all.
    fs::copy(scene.object(&head, 1), scene.object(&head, 4)).unwrap();
    fs::write(scene.object(&head, 5), &fs::read(scene.object(&head, 5)).unwrap()[..100]).unwrap();
    fs::write(scene.object(&head, 6), b"").unwrap();
    fs::write(scene.object(&head, 7), noise(5000, 6)).unwrap();
    let source = MemorySource::new(&data);
    scene.archive.write(&other, &source, |_| ()).await.unwrap();
    assert_eq!(source.reads(), 5);
    assert!(scene.restore(&other).await.unwrap() == data);
}

#[tokio::test]
async fn a_removed_backup_leaves_no_file_and_no_other_backup_is_touched() {
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    let elsewhere = BackupHead { container: "Other-1".parse().unwrap(), ..head.clone() };
    // The number of one starts with that of the other, and all else is the same.
    let neighbour = BackupHead { number: 77, backup: BackupId::random(), ..head.clone() };
    for head in [&head, &elsewhere, &neighbour] {
        scene.back_up(head, &data).await.unwrap();
    }
    // The temporary file that a killed put leaves.
    fs::write(scene.at(&format!("{}#1", head.place().object(3))), b"cut").unwrap();
    for _ in 0..2 {
        scene.archive.delete(&head).await.unwrap();
        assert!(matches!(scene.restore(&head).await, Err(ArchiveError::Missing)));
        assert_eq!(scene.files().len(), 12);
    }
    assert!(scene.restore(&elsewhere).await.unwrap() == data);
    assert!(scene.restore(&neighbour).await.unwrap() == data);
    scene.archive.delete(&elsewhere).await.unwrap();
    scene.archive.delete(&neighbour).await.unwrap();
    assert!(!has_files(scene.root.path()));
    let drive = scene.at(&format!("{}/volume_{}", head.container, head.volume));
    assert!(!drive.exists(), "nor is the directory of the drive left");
}

#[tokio::test]
async fn the_list_tells_of_every_backup_and_of_what_is_wrong_with_some() {
    let (scene, data) = (scene(), sample());
    assert!(scene.archive.list().next().await.is_none());
    let good = head_of(&data);
    let elsewhere = BackupHead { container: "other".parse().unwrap(), ..head_of(&data) };
    let (damaged, misplaced, unfinished) = (head_of(&data), head_of(&data), head_of(&data));
    for head in [&good, &elsewhere, &damaged, &misplaced, &unfinished] {
        scene.back_up(head, &data).await.unwrap();
    }
    let mut bytes = fs::read(scene.manifest(&damaged)).unwrap();
    bytes[200] ^= 1;
    fs::write(scene.manifest(&damaged), bytes).unwrap();
    scene.forge(&misplaced, |manifest| manifest.head.volume = good.volume);
    fs::remove_file(scene.manifest(&unfinished)).unwrap();
    fs::write(scene.at("volumebackups/x_metadata"), "not ours").unwrap();

    let mut heads = Vec::new();
    let mut wrong = Vec::new();
    let mut list = scene.archive.list();
    while let Some(found) = list.next().await {
        let found = found.unwrap();
        match found.manifest {
            Ok(manifest) => {
                assert_eq!(found.location, manifest.head.place().manifest().as_ref());
                heads.push(manifest.head);
            }
            Err(ArchiveError::Damaged(_)) => wrong.push(found.location),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(heads.len(), 2);
    assert!(heads.contains(&good) && heads.contains(&elsewhere));
    wrong.sort();
    let mut expected = [&damaged, &misplaced].map(|head| head.place().manifest().to_string());
    expected.sort();
    assert_eq!(wrong, expected);
}

#[tokio::test]
async fn failures_of_the_drive_are_told_from_those_of_the_storage() {
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    let source = MemorySource { fails_at: Some(2), ..MemorySource::new(&data) };
    assert!(matches!(scene.archive.write(&head, &source, |_| ()).await, Err(ArchiveError::Source(_))));
    let other = MemorySource::new(&data[1..]);
    assert!(matches!(scene.archive.write(&head, &other, |_| ()).await, Err(ArchiveError::Source(_))));
    scene.back_up(&head, &data).await.unwrap();
    let mut sink = MemorySink { is_full: true, ..MemorySink::new(head.size) };
    assert!(matches!(scene.archive.restore(&head, &mut sink, |_| ()).await, Err(ArchiveError::Sink(_))));
    assert_eq!(scene.pool.in_use(), 0);

    // The directory of backups is a file now.
    let directory = scene.root.path().join("backups");
    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, b"").unwrap();
    assert!(matches!(scene.back_up(&head, &data).await, Err(ArchiveError::Cut(_))));
}

#[tokio::test]
async fn futures_can_be_sent_to_another_thread() {
    fn sent<T: Send>(value: T) -> T {
        value
    }
    let (scene, data) = (scene(), sample());
    let head = head_of(&data);
    let source = MemorySource::new(&data);
    sent(scene.archive.write(&head, &source, |_| ())).await.unwrap();
    let mut sink = MemorySink::new(head.size);
    sent(scene.archive.restore(&head, &mut sink, |_| ())).await.unwrap();
    let mut list = scene.archive.list();
    assert!(sent(list.next()).await.is_some());
    sent(scene.archive.delete(&head)).await.unwrap();
}

#[test]
fn plain_http_is_for_this_machine_only() {
    for (url, is_plain) in [
        ("http://127.0.0.1:9000", true),
        ("http://[::1]:9000", true),
        ("http://localhost", true),
        ("https://s3.example.com", false),
        ("https://127.0.0.1", false),
    ] {
        assert_eq!(url.parse::<StorageUrl>().unwrap().is_plain, is_plain, "{url}");
    }
    for url in ["http://s3.example.com", "http://10.0.0.1", "http://127.0.0.1.example.com"] {
        assert_eq!(url.parse::<StorageUrl>(), Err(NotAStorageUrl::Plain), "{url}");
    }
    for url in ["s3", "ftp://x", ""] {
        assert_eq!(url.parse::<StorageUrl>(), Err(NotAStorageUrl::Syntax), "{url}");
    }
}

#[test]
fn a_level_that_is_none_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for level in [-1, 0, 20, 100] {
        let settings = settings(Storage::Directory(root.path().to_owned()), level);
        let opened = Archive::open(&settings, Pool::small(), tokio_util::task::TaskTracker::new());
        assert!(matches!(opened, Err(ArchiveError::Settings(_))), "{level}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_drive_comes_back(
        runs in proptest::collection::vec((0u8..4, 1usize..150_000), 0..10),
        polls in 0u32..80,
    ) {
        let mut data = Vec::new();
        for (n, (kind, len)) in runs.into_iter().enumerate() {
            data.extend(match kind {
                0 => noise(len, n as u64 + 1),
                1 => vec![n as u8 + 1; len],
                _ => vec![0; len],
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let back = runtime.block_on(async {
            let scene = scene();
            let head = head_of(&data);
            within_polls(polls, scene.back_up(&head, &data)).await;
            scene.back_up(&head, &data).await.unwrap();
            scene.restore(&head).await.unwrap()
        });
        prop_assert!(back == data);
    }
}
