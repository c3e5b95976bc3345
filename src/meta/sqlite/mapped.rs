#![expect(unsafe_code, reason = "the handler of a signal is set by a call that has no safe wrapper")]
//! What happens when the disk has no room for a page of the database's mapped memory.
//!
//! `SQLite` shares the index of its log through a mapped file (`-shm`). Btrfs takes room for a page anew whenever it
//! becomes dirty, also where it writes in place; where a quota refuses that, the write to memory is a SIGBUS, which
//! ends the process. Here the write is made again until there is room, for which the space that is kept for removing is
//! given up if it takes long: nobody else has that (see [`crate::domain::Shortage`]).
//!
//! # Invariants
//! - The handler allocates nothing, takes no lock, and makes only calls that a handler may make (`signal-safety(7)`).
//! - A page that stays refused ends the process as it would without the handler, after a line that says why.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, ptr, thread};

use super::Ballast;

/// How long, in milliseconds, a write is made again before the space is given up: what fills the disk is refused too,
/// and leaves its own.
const BEFORE: u64 = 200;
/// How long it is made again in all.
const PATIENCE: u64 = 60_000;
/// Faults that are further apart, in milliseconds, are not of one shortage.
const APART: u64 = 2_000;
/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(20);

const GIVEN_UP: &[u8] = b"the disk keeps refusing a page of the database's shared memory (SIGBUS)\n";

/// What the handler works with. It is never dropped: a handler may run at any time.
static GUARD: OnceLock<Guard> = OnceLock::new();

struct Guard {
    ballast: Ballast,
    /// What a refused page did before.
    former: libc::sigaction,
    began: Instant,
    /// When the first and the latest fault of this shortage were, in milliseconds from `began`.
    first: AtomicU64,
    latest: AtomicU64,
}

/// Has this space given up when a page is refused. A process has one such space: that of the first call.
pub(super) fn guard(ballast: &Ballast) -> io::Result<()> {
    if !ballast.is_kept() || GUARD.get().is_some() {
        return Ok(());
    }
    let mut former = MaybeUninit::zeroed();
    // SAFETY: it only reads what is set now into `former`, which is as large as it needs.
    let told = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), former.as_mut_ptr()) };
    if told != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeros are a whole `sigaction`, and the call has filled it.
    let former: libc::sigaction = unsafe { former.assume_init() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_refused_page;
    let mut action = former;
    action.sa_sigaction = handler as usize;
    // On the stack that std gives each of its threads for signals, where there is one.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let (ballast, began) = (ballast.clone(), Instant::now());
    if GUARD.set(Guard { ballast, former, began, first: AtomicU64::new(0), latest: AtomicU64::new(0) }).is_err() {
        return Ok(());
    }
    set(&action)
}

fn set(action: &libc::sigaction) -> io::Result<()> {
    // SAFETY: `action` is whole, and its handler, ours or the one before, lives as long as the process.
    match unsafe { libc::sigaction(libc::SIGBUS, action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns to the write that was refused, which is made again.
extern "C" fn on_refused_page(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    let Some(guard) = GUARD.get() else { return };
    // SAFETY: with SA_SIGINFO the kernel passes what it tells of the signal.
    let is_refused = unsafe { (*info).si_code } == libc::BUS_ADRERR;
    // SAFETY: it is the number of this thread's latest error, which who was interrupted may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    let refused_for = guard.refused_for();
    if is_refused && refused_for < PATIENCE {
        if refused_for >= BEFORE {
            guard.ballast.give_up();
        }
        thread::sleep(PAUSE);
    } else {
        // SAFETY: the bytes are there for good.
        unsafe { libc::write(libc::STDERR_FILENO, GIVEN_UP.as_ptr().cast(), GIVEN_UP.len()) };
        let _ = set(&guard.former);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

impl Guard {
    /// How long pages have been refused by now.
    fn refused_for(&self) -> u64 {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.latest.swap(now, Ordering::Relaxed)) > APART {
            self.first.store(now, Ordering::Relaxed);
        }
        now.saturating_sub(self.first.load(Ordering::Relaxed))
    }
}
