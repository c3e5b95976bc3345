//! The rows of the table, a file for each kind.

mod cold;
mod control;
mod digest;
mod latency;
mod load;
mod many;
mod small;
mod tls;
mod trees;
mod whole;

use anyhow::Result;

pub(crate) use self::many::PART;
use clap::ValueEnum;

use crate::Bench;

/// A kind of work, with targets of its own.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Random data, until it is durable.
    Upload,
    /// The same, beside the least that any receiver must do.
    Floor,
    /// An image of which 70 % is zeros, until it is durable.
    Zeros,
    /// From the page cache.
    Download,
    /// From the disk, the page cache emptied of it first.
    Cold,
    /// Up and down over TLS.
    Tls,
    /// An upload whose SHA-256 the client asserts.
    Sha256,
    /// Waits for a first byte, and for leave to upload.
    Latency,
    /// Many uploads and downloads at once.
    Many,
    /// Archives that are unpacked into volumes.
    Trees,
    /// Requests to the control side.
    Control,
    /// Many small drives.
    Small,
}

impl Row {
    /// All, in the order in which they are measured: the small drives last, because their removal slows down the making
    /// of files for a while (ext4 does not take a freed inode again at once).
    pub(crate) const ALL: [Self; 12] = [
        Self::Upload,
        Self::Floor,
        Self::Zeros,
        Self::Download,
        Self::Cold,
        Self::Tls,
        Self::Sha256,
        Self::Latency,
        Self::Many,
        Self::Trees,
        Self::Control,
        Self::Small,
    ];

    /// Whether ovirt-imageio takes part.
    pub(crate) fn has_imageio(self) -> bool {
        matches!(self, Self::Upload | Self::Download)
    }

    /// Measures it and prints its lines.
    pub(crate) fn measure(self, bench: &mut Bench) -> Result<()> {
        match self {
            Self::Upload => whole::upload(bench),
            Self::Floor => whole::floor(bench),
            Self::Zeros => whole::zeros(bench),
            Self::Download => whole::download(bench),
            Self::Cold => cold::measure(bench),
            Self::Tls => tls::measure(bench),
            Self::Sha256 => digest::measure(bench),
            Self::Latency => latency::measure(bench),
            Self::Many => many::measure(bench),
            Self::Trees => trees::measure(bench),
            Self::Control => control::measure(bench),
            Self::Small => small::measure(bench),
        }
    }
}

/// The order of so many servers in a run: there, and back in the next, so that none always comes after the same other.
fn turns(servers: usize, run: u32) -> impl Iterator<Item = usize> {
    (0..servers).map(move |at| if run.is_multiple_of(2) { at } else { servers - 1 - at })
}
