//! Limits what a caller may send ahead over HTTP/2: received and unread bytes of a body are in memory.
//!
//! A connection's windows are set when it begins, before its caller is known. So a few connections get wide windows for
//! fast uploads, with a share per address. The others get the initial windows of HTTP/2, which are slower over long
//! distances.
//!
//! hyper and h2 limit what else a peer could fill: a head by `max_header_list_size`, even in many CONTINUATION frames;
//! streams that are reset before they are read to 20; pending answers to errors to 1,024; small DATA frames to half of
//! a window. A connection that exceeds these is closed with `ENHANCE_YOUR_CALM`.

use std::net::IpAddr;
use std::sync::Arc;

use super::admission::holder;
use super::shares::{Share, Shares};

/// The number of connections with wide windows, which take 128 MiB together (I12).
const WIDE: usize = 64;

/// The most of these for one address, or network.
const WIDE_OF_ADDRESS: usize = WIDE / 2;

/// The windows of one connection, held until they are dropped.
#[derive(Debug)]
pub(super) struct Window {
    /// Streams at once. Each may hold a block, and browsers open fewer.
    pub(super) streams: u32,
    /// The most that one upload may send ahead.
    pub(super) stream: u32,
    /// The most that all uploads of a connection together may send ahead.
    pub(super) connection: u32,
    _shares: Option<(Share<()>, Option<Share<IpAddr>>)>,
}

/// The shares of wide windows.
#[derive(Debug)]
pub(super) struct Windows {
    all: Arc<Shares<()>>,
    of_address: Arc<Shares<IpAddr>>,
}

impl Windows {
    pub(super) fn new() -> Self {
        Self { all: Shares::new(WIDE), of_address: Shares::new(WIDE_OF_ADDRESS) }
    }

    /// Returns the windows of a new connection from `address`, which is `None` if it has no share (as a proxy).
    pub(super) fn open(&self, address: Option<IpAddr>) -> Window {
        let of_address = match address {
            Some(address) => self.of_address.take(holder(address)).map(Some),
            None => Some(None),
        };
        let shares = of_address.and_then(|of_address| self.all.take(()).map(|one| (one, of_address)));
        match shares {
            // The bandwidth-delay product of 10 Gbit/s at 1 ms, and of two such uploads.
            Some(_) => Window { streams: 32, stream: 1 << 20, connection: 2 << 20, _shares: shares },
            // Four heads of 16 KiB, and the window that every peer must accept (RFC 9113 section 6.9.2).
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
