//! Checksums of parts of a transfer, which a client sends so that a part that was changed on its way is refused.

use std::fmt;

/// An algorithm for checksums of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// SHA-1 (FIPS 180-4). Finds accidents, not attacks.
    Sha1,
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// MD5 (RFC 1321). Finds accidents, not attacks.
    Md5,
    /// CRC-32C (RFC 9260 appendix A), big-endian. Finds accidents, not attacks.
    Crc32c,
    /// BLAKE3 with its default length.
    Blake3,
}

impl ChecksumAlgorithm {
    /// All algorithms.
    pub const ALL: [Self; 5] = [Self::Sha1, Self::Sha256, Self::Md5, Self::Crc32c, Self::Blake3];

    /// Returns the number of bytes of a checksum.
    pub const fn width(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Md5 => 16,
            Self::Crc32c => 4,
        }
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Md5 => "MD5",
            Self::Crc32c => "CRC-32C",
            Self::Blake3 => "BLAKE3",
        })
    }
}

/// The checksum of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Its algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// Its value, as long as the algorithm makes it.
    pub value: Vec<u8>,
}

/// The checksums of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Those that are known before its first byte.
    pub asserted: Vec<Checksum>,
    /// The algorithms of those that may follow its last byte.
    pub announced: Vec<ChecksumAlgorithm>,
}

impl Checks {
    /// Reports whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.asserted.is_empty() && self.announced.is_empty()
    }

    /// Returns the algorithms that are needed, each once.
    pub fn algorithms(&self) -> Vec<ChecksumAlgorithm> {
        let asserted = |algorithm| self.asserted.iter().any(|one| one.algorithm == algorithm);
        let needed = |algorithm: &ChecksumAlgorithm| asserted(*algorithm) || self.announced.contains(algorithm);
        ChecksumAlgorithm::ALL.into_iter().filter(needed).collect()
    }
}
