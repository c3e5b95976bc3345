//! The server in the process of its test, which reaches parts of it that nobody reaches from outside.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

async fn start() -> (tempfile::TempDir, App) {
    let data = tempfile::tempdir().unwrap();
    let config = Config { data_dir: data.path().into(), listen: ([127, 0, 0, 1], 0).into(), ..Config::default() };
    let app = App::start(config, false, DroppedLines::default()).await.unwrap();
    (data, app)
}

/// Asks, on connections of their own, until the status is this one.
async fn wait_until_readyz_is(app: &App, status: &str) {
    let address = app.direct_url().strip_prefix("http://").unwrap();
    let told = async {
        loop {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            if answer.split(' ').nth(1) == Some(status) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_which_a_task_has_panicked_or_ended_is_not_ready_until_it_runs_again() {
    let (_data, app) = start().await;
    wait_until_readyz_is(&app, "200").await;
    for panics in [true, false] {
        let is_mended = Arc::new(AtomicBool::new(false));
        let seen = is_mended.clone();
        app.control.supervisor().run("test", &app.stop, move || {
            let is_mended = seen.load(Ordering::Relaxed);
            async move {
                assert!(is_mended || !panics, "a fault of the task");
                if is_mended {
                    std::future::pending::<()>().await;
                }
            }
        });
        wait_until_readyz_is(&app, "503").await;
        is_mended.store(true, Ordering::Relaxed);
        wait_until_readyz_is(&app, "200").await;
    }
    app.stop().await;
}
