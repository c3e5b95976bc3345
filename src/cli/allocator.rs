#![expect(unsafe_code, reason = "glibc's allocator is set, and asked, by calls that have no safe wrapper")]
//! Makes the allocator return memory to the system.

use std::convert::Infallible;
use std::time::Duration;

/// Allocations of at least this size are mapped separately, and unmapped when they are freed. By default, glibc raises
/// this limit to the largest allocation that was freed, so that the 19 MiB of a password's digest would stay, once for
/// each of its arenas (mallopt(3), `M_MMAP_THRESHOLD`).
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// The time between two looks at the memory of the process.
const LOOK: Duration = Duration::from_secs(10);

/// The least growth that is returned: it takes a walk through all free memory, and what is needed again must be mapped
/// again.
const WORTH: u64 = 16 << 20;

/// Sets the limit of separate mappings. Must be called before there are other threads.
pub(super) fn give_back_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator, and no other thread uses that yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Returns freed memory whenever the process has grown. By default, glibc keeps all that lies beneath anything that is
/// still used: after many connections nearly all that they took (`malloc_trim(3)`).
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

/// Returns the resident bytes of the process; 0 where the kernel does not report them.
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
