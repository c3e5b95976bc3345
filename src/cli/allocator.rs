#![expect(unsafe_code, reason = "glibc's allocator is set by a call that has no safe wrapper")]
//! Has the allocator give large memory back to the system.

/// What is at least this large is mapped by itself, and unmapped when it is freed. Left alone, glibc raises its limit to
/// the largest that was ever freed, so that the 19 MiB of a password's digest would stay, once for each of its arenas
/// (mallopt(3), `M_MMAP_THRESHOLD`).
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// To be called before there are other threads.
pub(super) fn give_back_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator, and no other thread uses that yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
