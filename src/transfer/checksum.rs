//! Computes checksums of a part while its bytes are in the processor's cache.

use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::domain::{Checksum, ChecksumAlgorithm, Fault, FaultKind};

/// Checksums of the same bytes in progress.
pub(super) struct ChecksumStates(Vec<(ChecksumAlgorithm, State)>);

enum State {
    Sha1(Sha1),
    Sha256(Sha256),
    Md5(Md5),
    Crc32c(Box<Crc>),
    Blake3(Box<blake3::Hasher>),
}

impl State {
    fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Sha1 => Self::Sha1(Sha1::default()),
            ChecksumAlgorithm::Sha256 => Self::Sha256(Sha256::default()),
            ChecksumAlgorithm::Md5 => Self::Md5(Md5::default()),
            ChecksumAlgorithm::Crc32c => Self::Crc32c(Box::new(Crc::new(CrcAlgorithm::Crc32Iscsi))),
            ChecksumAlgorithm::Blake3 => Self::Blake3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(state) => state.update(bytes),
            Self::Sha256(state) => state.update(bytes),
            Self::Md5(state) => state.update(bytes),
            Self::Crc32c(state) => state.update(bytes),
            Self::Blake3(state) => drop(state.update(bytes)),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(state) => state.finalize().to_vec(),
            Self::Sha256(state) => state.finalize().to_vec(),
            Self::Md5(state) => state.finalize().to_vec(),
            Self::Crc32c(state) => (state.finalize() as u32).to_be_bytes().to_vec(),
            Self::Blake3(state) => state.finalize().as_bytes().to_vec(),
        }
    }
}

impl ChecksumStates {
    /// Begins checksums by these algorithms.
    pub(super) fn new(algorithms: &[ChecksumAlgorithm]) -> Self {
        Self(algorithms.iter().map(|algorithm| (*algorithm, State::new(*algorithm))).collect())
    }

    /// Adds the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        for (_, state) in &mut self.0 {
            state.update(bytes);
        }
    }

    /// Returns the checksums.
    pub(super) fn finish(self) -> Vec<Checksum> {
        self.0.into_iter().map(|(algorithm, state)| Checksum { algorithm, value: state.finish() }).collect()
    }
}

/// Fails unless the bytes that came have every asserted checksum.
pub(super) fn check(came: &[Checksum], asserted: &[Checksum]) -> Result<(), Fault> {
    match asserted.iter().find(|one| !came.contains(one)) {
        None => Ok(()),
        Some(Checksum { algorithm, .. }) => {
            let told = format!("the bytes of the part do not have the asserted {algorithm}");
            Err(Fault::new(FaultKind::DigestMismatch, told))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_their_algorithms() {
        let mut states = ChecksumStates::new(&ChecksumAlgorithm::ALL);
        for byte in b"123456789" {
            states.update(&[*byte]);
        }
        let came = states.finish();
        let told: Vec<String> = came.iter().map(|one| hex::encode(&one.value)).collect();
        let expected = [
            "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            "25f9e794323b453885f5181f1b624d0b",
            "e3069283",
            "b7d65b48420d1033cb2595293263b6f72eabee20d55e699d0df1973b3c9deed1",
        ];
        assert_eq!(told, expected);
        assert!(came.iter().all(|one| one.value.len() == one.algorithm.width()));
        check(&came, &came).unwrap();
        let wrong = Checksum { value: vec![0; 4], algorithm: ChecksumAlgorithm::Crc32c };
        assert_eq!(check(&came, &[wrong]).unwrap_err().kind, FaultKind::DigestMismatch);
    }
}
