//! A bad line: passes bytes between clients and a server, and cuts, holds or changes them when told.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::image;

/// A line to a server. It ends with this, and with the test's process.
pub(crate) struct Relay {
    address: SocketAddr,
    line: Arc<Line>,
}

struct Line {
    target: String,
    /// Bytes that pass, both ways together, before the line stands still.
    left: AtomicU64,
    /// Bytes after which a connection is cut, both ways together.
    cut: AtomicU64,
    /// The same, chosen anew for each connection.
    cuts: Mutex<Option<(Xoshiro256PlusPlus, Range<u64>)>>,
    /// The byte, counted over all connections and both ways, one bit of which is changed.
    lie: AtomicU64,
    passed: AtomicU64,
    is_over: AtomicBool,
}

impl Relay {
    /// Makes a line to the server at this address.
    pub(crate) fn to(authority: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let free = || AtomicU64::new(u64::MAX);
        let line = Arc::new(Line {
            target: authority.to_owned(),
            left: free(),
            cut: free(),
            cuts: Mutex::default(),
            lie: free(),
            passed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&line);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                // A server that is away is a connection that ends.
                let Ok(server) = TcpStream::connect(&accepting.target) else { continue };
                let (count, most) = (Arc::new(AtomicU64::new(0)), accepting.cut_of_next());
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (
                        from.try_clone().expect("a socket can be cloned"),
                        to.try_clone().expect("a socket can be cloned"),
                    );
                    let (line, count) = (Arc::clone(&accepting), Arc::clone(&count));
                    thread::spawn(move || line.pass(from, to, &count, most));
                }
            }
        });
        Self { address, line }
    }

    /// Returns the URL of the server by way of this line.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stands still after this many more bytes.
    pub(crate) fn hold_after(&self, bytes: u64) {
        self.line.left.store(bytes, Ordering::Relaxed);
    }

    /// Lets all bytes pass again.
    pub(crate) fn release(&self) {
        self.line.left.store(u64::MAX, Ordering::Relaxed);
    }

    /// Waits until no more bytes pass, as those of a client that has ended do, and returns how many have.
    pub(crate) fn settled(&self) -> u64 {
        let mut passed = self.passed();
        loop {
            thread::sleep(Duration::from_millis(300));
            let now = self.passed();
            if now == passed {
                return now;
            }
            passed = now;
        }
    }

    /// Cuts each connection after this many bytes.
    pub(crate) fn cut_each_after(&self, bytes: u64) {
        self.line.cut.store(bytes, Ordering::Relaxed);
    }

    /// Cuts each connection after a number of bytes of its own.
    pub(crate) fn cut_each_within(&self, bytes: Range<u64>, seed: u64) {
        *self.line.cuts.lock().expect("no thread that has it panics") = Some((image::numbers(seed), bytes));
    }

    /// Changes one bit of the byte that passes after this many.
    pub(crate) fn lie_at(&self, byte: u64) {
        self.line.lie.store(byte, Ordering::Relaxed);
    }

    /// Returns how many bytes passed, both ways together.
    pub(crate) fn passed(&self) -> u64 {
        self.line.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.line.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Line {
    /// Chooses the bytes after which the next connection is cut.
    fn cut_of_next(&self) -> u64 {
        let mut cuts = self.cuts.lock().expect("no thread that has it panics");
        cuts.as_mut().map_or(u64::MAX, |(numbers, bytes)| numbers.random_range(bytes.clone()))
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, count: &AtomicU64, most: u64) {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let len = match from.read(&mut bytes) {
                Ok(0) | Err(_) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(len) => len,
            };
            while !self.may_pass(len as u64) {
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
            let at = self.passed.fetch_add(len as u64, Ordering::Relaxed);
            let lie = self.lie.load(Ordering::Relaxed).checked_sub(at);
            if let Some(byte) = lie.and_then(|lie| bytes[..len].get_mut(usize::try_from(lie).ok()?)) {
                *byte ^= 1;
            }
            let count = count.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
            let is_cut = count > self.cut.load(Ordering::Relaxed).min(most);
            if to.write_all(&bytes[..len]).is_err() || is_cut {
                let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
                return;
            }
        }
    }

    fn may_pass(&self, len: u64) -> bool {
        let take = |left: u64| if left == u64::MAX { Some(left) } else { left.checked_sub(len) };
        self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}
