#![expect(unsafe_code, reason = "glibc's allocator is set, and asked, by calls that have no safe wrapper")]
//! Has the allocator give memory back to the system.

use std::convert::Infallible;
use std::time::Duration;

/// What is at least this large is mapped by itself, and unmapped when it is freed. Left alone, glibc raises its limit
/// to the largest that was ever freed, so that the 19 MiB of a password's digest would stay, once for each of its
/// arenas (mallopt(3), `M_MMAP_THRESHOLD`).
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// How often it is looked whether there is something to give back.
const LOOK: Duration = Duration::from_secs(10);

/// What is worth it: giving back walks through all that is free, and what is needed again must be had again.
const WORTH: u64 = 16 << 20;

/// To be called before there are other threads.
pub(super) fn give_back_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator, and no other thread uses that yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back what was freed since, whenever the process is larger than it was. Left alone, glibc keeps what lies
/// beneath anything that is still used: after many connections nearly all that they took (`malloc_trim(3)`).
pub(super) async fn give_back_freed_memory() -> Infallible {
    let mut least = u64::MAX;
    loop {
        let now = resident();
        least = least.min(now);
        if now > least.saturating_add(WORTH) {
            let began = std::time::Instant::now();
            let _ = tokio::task::spawn_blocking(trim).await;
            let left = resident();
            tracing::debug!(from = now, to = left, micros = began.elapsed().as_micros(), "gave memory back");
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and touches nothing that is not free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The bytes of memory that the process has; none where the kernel does not tell.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_this_process_is_known() {
        assert!(resident() > 1 << 20);
    }
}
