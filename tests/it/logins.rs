//! Logins while others guess passwords from the same address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::harness::raw::basic;
use crate::harness::{Cloud, Server, Setup, wait_for};

/// Connections that guess passwords one after the other, until this is dropped.
pub(crate) struct Guessers {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Guessers {
    /// Opens one connection for each of these names, and waits until they are slowed down.
    pub(crate) fn at(server: &Server, names: &[&str]) -> Self {
        let guessers = Self { stop: Arc::default(), refused: Arc::default(), threads: Vec::new() };
        let threads = names.iter().enumerate().map(|(number, name)| {
            let (stop, refused) = (guessers.stop.clone(), guessers.refused.clone());
            let mut client = server.raw();
            let field = basic(&format!("{name}:guess-{number}"));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    client.send_head("GET /api/2.0/drives/", &[&field]);
                    assert_eq!(client.response().status, 401, "a guess is looked at, and refused for what it is");
                    refused.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        let threads = threads.collect();
        let guessers = Self { threads, ..guessers };
        wait_for("the guesses to be counted", || (guessers.count() > names.len() + 5).then_some(()));
        guessers
    }

    fn count(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Ends them; fails if one was refused for another reason.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("every guess was refused as one");
        }
    }
}

/// Logs in by every route that takes a password.
#[track_caller]
fn assert_is_let_in(server: &Server, credentials: &str) {
    assert_eq!(server.curl_as(credentials, "/api/2.0/drives/").run().status, 200);
    Cloud::log_in(server, credentials);
}

/// Starts a server that remembers no password, so that each login waits in the queue.
fn server() -> Server {
    Setup::default().config("auth.remember_seconds = 0").start()
}

#[test]
fn the_right_password_is_let_in_while_six_connections_guess_at_the_same_user() {
    let server = server();
    let alice = server.add_user("alice");
    let guessers = Guessers::at(&server, &["alice"; 6]);
    assert_is_let_in(&server, &alice);
    guessers.stop();
}

#[test]
fn the_right_password_is_let_in_while_six_connections_guess_at_other_users() {
    let server = server();
    let alice = server.add_user("alice");
    let guessers = Guessers::at(&server, &["a", "b", "c", "d", "e", "f"]);
    // A user who has not logged in yet is one of seven; after that, the guesses cause no delay.
    assert_is_let_in(&server, &alice);
    let before = guessers.count();
    assert_is_let_in(&server, &alice);
    assert!(guessers.count() - before <= 12, "who is known does not wait for a round of the guessers for each login");
    guessers.stop();
}
