//! Backups in a third-party S3 server: moto, as `tests/services/install` installs it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use futures_util::StreamExt as _;
use tokio_util::task::TaskTracker;

use super::testing::{CHUNK, MemorySource, head_of, noise, restore, settings, within_polls};
use super::{Archive, ArchiveError, BackupHead, Bucket, Storage, StorageUrl};
use crate::domain::{BackupId, ByteCount, Secret};
use crate::io::Pool;
use crate::skipped::skipped;

/// A server on its own port, stopped on drop.
struct Moto {
    process: Child,
    port: u16,
}

impl Moto {
    /// Starts a server; `None` if it is not installed, which is recorded as a skip.
    fn start() -> Option<Self> {
        let Some(python) = python() else {
            skipped("there is no moto; tests/services/install installs it");
            return None;
        };
        let mut process = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/run_moto.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Some(Self { process, port: line.trim().parse().unwrap() })
    }

    fn endpoint(&self) -> StorageUrl {
        format!("http://127.0.0.1:{}", self.port).parse().unwrap()
    }

    fn make_bucket(&self, name: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "PUT /{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn bucket(&self, name: &str) -> Bucket {
        Bucket {
            endpoint: Some(self.endpoint()),
            access_key_id: Some("id".to_owned()),
            secret_access_key: Some(Secret::new("secret")),
            ..Bucket::new(name)
        }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns the Python that has moto, beside the build, where the script installs it.
fn python() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    // <target>/<profile>/deps/<this>
    let path = test.ancestors().nth(3)?.join("services/moto/bin/python3");
    path.exists().then_some(path)
}

fn open(bucket: Bucket) -> (Archive, TaskTracker) {
    let tracker = TaskTracker::new();
    let settings = settings(Storage::S3(Box::new(bucket)), 3);
    let archive = Archive::open(&settings, Pool::new(ByteCount::mib(2)), tracker.clone()).unwrap();
    (archive.with_chunks_of(CHUNK), tracker)
}

fn sample() -> Vec<u8> {
    [noise(CHUNK as usize, 1), vec![0; 2 * CHUNK as usize], noise(2 * CHUNK as usize + 5, 2)].concat()
}

#[tokio::test]
async fn backups_in_s3_are_written_resumed_listed_restored_and_removed() {
    let Some(moto) = Moto::start() else { return };
    let data = sample();
    for (name, change) in [
        ("full", (|_| ()) as fn(&mut Bucket)),
        ("plain", |bucket| {
            (bucket.conditional_put, bucket.bulk_delete, bucket.checksum) = (false, false, false);
        }),
    ] {
        moto.make_bucket(name);
        let mut bucket = moto.bucket(name);
        change(&mut bucket);
        let (archive, tracker) = open(bucket);
        let head = head_of(&data);
        let other = BackupHead { container: "other".parse().unwrap(), backup: BackupId::random(), ..head_of(&data) };

        // Each of the four chunks with data is one read: a run interrupted at the third has stored two.
        let first = MemorySource { stalls_at: Some(2), ..MemorySource::new(&data) };
        tokio::select! {
            result = archive.write(&head, &first, |_| ()) => panic!("it stalls, but {result:?}"),
            () = first.stalled.notified() => {}
        }
        tracker.close();
        tracker.wait().await;
        tracker.reopen();
        let second = MemorySource::new(&data);
        let written = archive.write(&head, &second, |_| ()).await.unwrap();
        assert_eq!((written.objects, second.reads()), (4, 2));
        archive.write(&other, &MemorySource::new(&data), |_| ()).await.unwrap();

        assert!(restore(&archive, &head).await.unwrap() == data);
        assert!(restore(&archive, &other).await.unwrap() == data);
        assert_eq!(archive.write(&head, &MemorySource::new(&data), |_| ()).await.unwrap(), written);
        let taken = BackupHead { backup: BackupId::random(), ..head.clone() };
        assert!(matches!(archive.write(&taken, &MemorySource::new(&data), |_| ()).await, Err(ArchiveError::Conflict)));

        let mut list = archive.list();
        let mut found = Vec::new();
        while let Some(backup) = list.next().await {
            found.push(backup.unwrap().manifest.unwrap().head);
        }
        assert_eq!(found.len(), 2);
        assert!(found.contains(&head) && found.contains(&other));

        for head in [&head, &head, &other] {
            archive.delete(head).await.unwrap();
            assert!(matches!(restore(&archive, head).await, Err(ArchiveError::Missing)));
        }
        assert_eq!(archive.objects.list().next().await.map(Result::unwrap), None);
    }
}

#[tokio::test]
async fn a_backup_to_s3_that_is_dropped_anywhere_leaves_nothing_after_its_removal() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("dropped");
    let (archive, tracker) = open(moto.bucket("dropped"));
    let data = sample();
    for polls in (0..60).step_by(3) {
        let head = head_of(&data);
        within_polls(polls, archive.write(&head, &MemorySource::new(&data), |_| ())).await;
        archive.delete(&head).await.unwrap();
        tracker.close();
        tracker.wait().await;
        tracker.reopen();
        assert_eq!(archive.objects.list().next().await.map(Result::unwrap), None, "after {polls} polls");
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_for_the_administrator() {
    let Some(moto) = Moto::start() else { return };
    let (archive, _) = open(moto.bucket("nowhere"));
    let data = sample();
    let result = archive.write(&head_of(&data), &MemorySource::new(&data), |_| ()).await;
    assert!(matches!(result, Err(ArchiveError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_worth_another_try() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let bucket = Bucket {
        endpoint: Some(format!("http://127.0.0.1:{port}").parse().unwrap()),
        access_key_id: Some("id".to_owned()),
        secret_access_key: Some(Secret::new("secret")),
        ..Bucket::new("b")
    };
    let (archive, _) = open(bucket);
    let data = sample();
    let result = archive.write(&head_of(&data), &MemorySource::new(&data), |_| ()).await;
    assert!(matches!(result, Err(ArchiveError::Cut(_))), "{result:?}");
}
