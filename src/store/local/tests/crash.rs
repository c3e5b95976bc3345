//! A process that ends at any moment.

use super::*;
use crate::domain::CrashPoints;
use crate::store::conformance::crash::{check_after, every_step, prepare};

/// The process that [`a_process_that_ends_between_any_two_steps_leaves_whole_drives_and_sweepable_leftovers`] ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the crash test, which sets its environment"]
async fn crashing_process() {
    let root = PathBuf::from(std::env::var_os("CRASH_ROOT").unwrap());
    let at = std::env::var_os("CRASH_AT").unwrap().to_str().unwrap().parse().unwrap();
    let settings = LocalSettings { crash: CrashPoints::after(at), ..LocalSettings::default() };
    let local = Local::new(root, IoEngine::best(1).0, settings, None);
    every_step(&local, |step| println!("\ndid {step}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_between_any_two_steps_leaves_whole_drives_and_sweepable_leftovers() {
    for at in 1.. {
        let local = Local::temporary(IoEngine::threads(1), Direct::Auto);
        prepare(&local).await;
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::local::tests::crash::crashing_process", "--ignored", "--nocapture"])
            .env("CRASH_ROOT", &local.root)
            .env("CRASH_AT", at.to_string())
            .output()
            .unwrap();
        let told = String::from_utf8(ended.stdout).unwrap();
        check_after(&local, |step| told.lines().any(|line| line == format!("did {step}")), at).await;
        if ended.status.success() {
            println!("{} crash points", at - 1);
            assert!(at > 15, "the crash points are gone");
            return;
        }
        assert!(String::from_utf8(ended.stderr).unwrap().contains("crash point: "), "it ended otherwise at {at}");
    }
}
