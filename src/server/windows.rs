//! How much a caller may send ahead over HTTP/2: what has arrived of a body and was not taken is in memory.
//!
//! A connection's windows are set when it begins, when nobody knows yet whose it is. So a few are wide, as an upload
//! wants them, with a share per address; the others have what HTTP/2 begins with, and carry the same at a slower pace
//! over a long way.
//!
//! What else a peer could fill is bounded by hyper and h2: a head by `max_header_list_size`, also one in many
//! CONTINUATION frames; streams that are reset before they were looked at, 20 of them; answers to what is wrong, 1,024;
//! small DATA frames, by half of a window. A connection beyond these is closed with `ENHANCE_YOUR_CALM`.

use std::net::IpAddr;
use std::sync::Arc;

use super::admission::holder;
use super::shares::{Share, Shares};

/// How many connections have wide windows: 128 MiB together (I12).
const WIDE: usize = 64;

/// How many of these one address, or network, may have.
const WIDE_OF_ADDRESS: usize = WIDE / 2;

/// The windows of one connection, until they are dropped.
#[derive(Debug)]
pub(super) struct Window {
    /// Streams at once. Each may hold a block, and a browser opens fewer.
    pub(super) streams: u32,
    /// What one upload may send ahead.
    pub(super) stream: u32,
    /// What all uploads of a connection together may send ahead.
    pub(super) connection: u32,
    _shares: Option<(Share<()>, Option<Share<IpAddr>>)>,
}

/// Wide windows.
#[derive(Debug)]
pub(super) struct Windows {
    all: Arc<Shares<()>>,
    of_address: Arc<Shares<IpAddr>>,
}

impl Windows {
    pub(super) fn new() -> Self {
        Self { all: Shares::new(WIDE), of_address: Shares::new(WIDE_OF_ADDRESS) }
    }

    /// The windows of a new connection from `address`; of one that has no share, such as a proxy's, `None`.
    pub(super) fn open(&self, address: Option<IpAddr>) -> Window {
        let of_address = match address {
            Some(address) => self.of_address.take(holder(address)).map(Some),
            None => Some(None),
        };
        let shares = of_address.and_then(|of_address| self.all.take(()).map(|one| (one, of_address)));
        match shares {
            // The bandwidth-delay product of 10 Gbit/s at 1 ms, and of two such uploads.
            Some(_) => Window { streams: 32, stream: 1 << 20, connection: 2 << 20, _shares: shares },
            // Four heads of 16 KiB and what nobody can refuse to take (RFC 9113 section 6.9.2).
            None => Window { streams: 4, stream: 65_535, connection: 65_535, _shares: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wide(window: &Window) -> bool {
        window.connection > 65_535
    }

    #[test]
    fn few_windows_are_wide_and_no_address_has_more_than_half_of_them() {
        let windows = Windows::new();
        let address = |last| Some(IpAddr::from([10, 0, 0, last]));
        let first: Vec<_> = (0..WIDE).map(|_| windows.open(address(1))).collect();
        assert_eq!(first.iter().filter(|window| is_wide(window)).count(), WIDE_OF_ADDRESS);
        let proxied: Vec<_> = (0..WIDE).map(|_| windows.open(None)).collect();
        assert_eq!(proxied.iter().filter(|window| is_wide(window)).count(), WIDE - WIDE_OF_ADDRESS);
        assert!(!is_wide(&windows.open(address(2))));
        drop(first);
        assert!(is_wide(&windows.open(address(2))));
    }
}
