//! How many files this process may have open at once, sockets included.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as the system lets us; how many it is then.
///
/// The soft limit is low by default for programs that call `select`, which fails above 1,024. This one does not.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is no limit.
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
    .unwrap_or(u64::MAX)
}

/// Returns the connections, of those `wanted`, that can be served when `limit` files may be open and `elsewhere` of
/// them are needed for other things.
///
/// A connection has its socket and the file that it fills or reads, and now and then a third beside it. Where there is
/// little, half of it is kept for the other things, which then wait or fail in good order.
pub fn connections_within(limit: u64, elsewhere: u64, wanted: usize) -> usize {
    const EACH: u64 = 3;
    let left = limit - elsewhere.min(limit / 2);
    usize::try_from(left / EACH).unwrap_or(usize::MAX).clamp(1, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_files_and_for_all_else() {
        assert_eq!(connections_within(u64::MAX, 1_200, 4096), 4096);
        assert_eq!(connections_within(1 << 20, 1_200, 4096), 4096);
        assert_eq!(connections_within(4_200, 1_200, 4096), 1_000);
        assert_eq!(connections_within(120, 1_200, 4096), 20);
        assert_eq!(connections_within(0, 1_200, 4096), 1);
        for limit in 10..20_000 {
            let connections = connections_within(limit, 1_200, 4096) as u64;
            assert!(connections * 3 + (limit / 2).min(1_200) <= limit, "{limit}");
        }
    }
}
