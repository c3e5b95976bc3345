//! A process that ends at any moment leaves whole drives, and leftovers that a sweep removes.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::{Subject, bytes, noise, pieces_of};
use crate::domain::{ContentId, CrashPoints};
use crate::io::{BLOCK, IoEngine, Pool};
use crate::store::*;

const SOURCE: ContentId = ContentId::from_bytes([1; 16]);
const UPLOAD: ContentId = ContentId::from_bytes([2; 16]);
const CLONE: ContentId = ContentId::from_bytes([3; 16]);
const DOOMED: ContentId = ContentId::from_bytes([4; 16]);
const LARGE: ContentId = ContentId::from_bytes([5; 16]);

/// What is uploaded as this drive: one that is a file, or one that is a folder.
fn uploaded(id: ContentId) -> Vec<u8> {
    noise(if id == LARGE { 3 * BLOCK + 9 } else { BLOCK + 9 }, 2)
}

/// Every kind of step once, each told to `did` when it is durable.
async fn every_step(subject: &Subject, mut did: impl FnMut(&str)) {
    for (id, step) in [(UPLOAD, "publish"), (LARGE, "publish a large one")] {
        let content = uploaded(id);
        let draft = subject.draft(id, content.len()).await;
        subject.fill(&*draft, &content).await;
        draft.publish(bytes(content.len()), pieces_of(&content)).await.unwrap();
        did(step);
    }
    subject.copy(SOURCE, CLONE).await.unwrap();
    did("clone");
    subject.store.grow(SOURCE, bytes(3 * BLOCK)).await.unwrap();
    did("grow");
    subject.store.remove(DOOMED).await.unwrap();
    did("remove");
}

/// The process that [`a_process_that_ends_between_any_two_steps_leaves_whole_drives_and_sweepable_leftovers`] ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the crash test, which sets its environment"]
async fn crashing_process() {
    let root = PathBuf::from(std::env::var_os("CRASH_ROOT").unwrap());
    let at = std::env::var_os("CRASH_AT").unwrap().to_str().unwrap().parse().unwrap();
    let settings = LocalSettings { crash: CrashPoints::after(at), ..LocalSettings::default() };
    let store = LocalStore::open(&root, IoEngine::best(1).0, settings).unwrap();
    let subject = Subject { name: String::new(), store, root, pool: Pool::new(ByteCount::mib(8)), _dir: None };
    every_step(&subject, |step| println!("\ndid {step}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_between_any_two_steps_leaves_whole_drives_and_sweepable_leftovers() {
    let source = noise(2 * BLOCK, 1);
    for at in 1.. {
        let subject = Subject::temporary(IoEngine::threads(1), Direct::Auto);
        for id in [SOURCE, DOOMED] {
            let draft = subject.draft(id, source.len()).await;
            subject.fill(&*draft, &source).await;
            draft.publish(bytes(source.len()), pieces_of(&source)).await.unwrap();
        }
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::conformance::crash::crashing_process", "--ignored", "--nocapture"])
            .env("CRASH_ROOT", &subject.root)
            .env("CRASH_AT", at.to_string())
            .output()
            .unwrap();
        let told = String::from_utf8(ended.stdout).unwrap();
        let did = |step: &str| told.lines().any(|line| line == format!("did {step}"));

        // Whoever opens the store next needs no repair: what is visible is whole.
        let mut visible = Vec::new();
        for id in [SOURCE, UPLOAD, CLONE, DOOMED, LARGE] {
            if !subject.is_missing(id).await {
                visible.push(id);
                let read = subject.read(id).await;
                let expected = match id {
                    UPLOAD | LARGE => uploaded(id),
                    _ => source.clone(),
                };
                assert!(read[..expected.len()] == expected[..] && is_zero(&read[expected.len()..]), "{id} at {at}");
                let pieces = subject.store.open(id).await.unwrap().pieces().await.unwrap();
                assert_eq!(pieces, pieces_of(&expected));
                let grown = id == SOURCE && read.len() == 3 * BLOCK;
                assert!(grown || read.len() == expected.len() && !(id == SOURCE && did("grow")));
            }
        }
        assert!(visible.contains(&SOURCE));
        assert!(visible.contains(&UPLOAD) || !did("publish"), "an acknowledged drive is gone at {at}");
        assert!(visible.contains(&LARGE) || !did("publish a large one"), "an acknowledged drive is gone at {at}");
        assert!(visible.contains(&CLONE) || !did("clone"), "an acknowledged clone is gone at {at}");
        assert!(!visible.contains(&DOOMED) || !did("remove"), "a removed drive is back at {at}");

        let kept = visible.clone();
        subject.store.sweep(Arc::new(move |id| kept.contains(&id)), Arc::new(|_| false), UnixTime(0)).await.unwrap();
        let mut left = subject.left();
        left.sort_unstable();
        assert_eq!(left, visible.iter().map(ContentId::to_string).collect::<Vec<_>>(), "at {at}");

        // And every step can be run again.
        subject.store.remove(UPLOAD).await.unwrap();
        subject.store.remove(LARGE).await.unwrap();
        every_step(&subject, |_| ()).await;
        if ended.status.success() {
            println!("{} crash points", at - 1);
            assert!(at > 15, "the crash points are gone");
            return;
        }
        assert!(String::from_utf8(ended.stderr).unwrap().contains("crash point: "), "it ended otherwise at {at}");
    }
}
