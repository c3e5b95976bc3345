//! Decompresses a body on its way into a draft.
//!
//! Memory is bounded by the window that a frame may ask for, and output by the space that it is given: a bomb fills the
//! part that it was sent for, and is refused behind that like any body that is too long.

use std::ops::Range;

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use super::error::Broken;
use super::feed::ByteSource;
use crate::domain::{Checksum, Digests, Fault};

/// The largest window of a zstd frame: the 8 MiB that every decoder of HTTP must take and no encoder may exceed
/// (RFC 9659).
const WINDOW_LOG: u32 = 23;
/// Compressed bytes that are taken at once.
const TAKE: usize = 64 << 10;
/// The most bytes that are decompressed without a turn for other tasks of the thread: some half a millisecond.
const STEP: usize = 256 << 10;

/// A body that is not what its head says.
#[derive(Debug, thiserror::Error)]
enum Miscoded {
    #[error("the body is not zstd, or needs a window of more than 8 MiB")]
    Broken,
    #[error("the body ends within a frame of zstd")]
    CutShort,
    #[error("a compressed part takes no digests behind its end")]
    Checked,
}

/// The bytes that a zstd stream is of; several frames in a row are one stream.
pub struct Expanded<'a, S> {
    source: &'a mut S,
    decoder: Decoder<'static>,
    held: Box<[u8]>,
    /// What of `held` is still compressed.
    rest: Range<usize>,
    /// Whether the decoder may have more without input.
    has_more: bool,
    /// Whether the last frame is complete.
    is_whole: bool,
    /// The bytes since the last turn of others.
    given: usize,
}

impl<'a, S: ByteSource> Expanded<'a, S> {
    /// Decompresses what comes from `source`.
    pub fn new(source: &'a mut S) -> Result<Self, Fault> {
        let mut decoder = Decoder::new().map_err(Fault::internal)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(Fault::internal)?;
        let held = vec![0; TAKE].into_boxed_slice();
        Ok(Self { source, decoder, held, rest: 0..0, has_more: false, is_whole: false, given: 0 })
    }
}

impl<S: ByteSource> ByteSource for Expanded<'_, S> {
    async fn ready(&mut self) -> Result<bool, Broken> {
        if self.given >= STEP {
            self.given = 0;
            tokio::task::yield_now().await;
        }
        if self.has_more || !self.rest.is_empty() || self.source.ready().await? {
            return Ok(true);
        }
        if self.is_whole { Ok(false) } else { Err(Fault::from(Miscoded::CutShort).into()) }
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize, Broken> {
        if self.rest.is_empty() && !self.has_more {
            self.rest = 0..self.source.take(&mut self.held)?;
            if self.rest.is_empty() {
                return Ok(0);
            }
        }
        let most = into.len().min(STEP);
        let mut input = InBuffer::around(&self.held[self.rest.clone()]);
        let mut output = OutBuffer::around(&mut into[..most]);
        let left = self.decoder.run(&mut input, &mut output).map_err(|_| Fault::from(Miscoded::Broken))?;
        let (taken, given) = (input.pos(), output.pos());
        self.rest.start += taken;
        self.is_whole = left == 0;
        self.has_more = given == most && !self.is_whole;
        self.given += given;
        Ok(given)
    }

    fn checksums(&self) -> Result<Vec<Checksum>, Fault> {
        if self.source.checksums()?.is_empty() { Ok(Vec::new()) } else { Err(Miscoded::Checked.into()) }
    }

    fn asserted(&self) -> Result<Digests, Fault> {
        if self.source.asserted()? == Digests::NONE { Ok(Digests::NONE) } else { Err(Miscoded::Checked.into()) }
    }
}

impl From<Miscoded> for Fault {
    fn from(error: Miscoded) -> Self {
        Self::invalid("content-encoding", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Write as _;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::transfer::{ChunkSource, Chunks, ReceiveError};

    struct Given(VecDeque<Bytes>);

    impl Chunks for Given {
        async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
            Ok(self.0.pop_front())
        }
    }

    /// Decompresses what comes in chunks of one size into space of another.
    async fn expanded(coded: &[u8], chunk: usize, space: usize) -> Result<Vec<u8>, Fault> {
        let chunks = coded.chunks(chunk).map(Bytes::copy_from_slice).collect();
        let mut source = ChunkSource::from(Given(chunks));
        let mut expanded = Expanded::new(&mut source)?;
        let (mut got, mut space) = (Vec::new(), vec![0; space]);
        let of_source = |error| Fault::from(ReceiveError::Source(error));
        while expanded.ready().await.map_err(of_source)? {
            let given = expanded.take(&mut space).map_err(of_source)?;
            got.extend_from_slice(&space[..given]);
            assert!(got.len() <= 64 << 20, "it has no end");
        }
        Ok(got)
    }

    fn coded(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Bytes that compress a little.
    fn sample(len: usize) -> Vec<u8> {
        (0..len as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_stream_is_what_it_was_however_it_comes(
            len in 0..300_000usize, chunk in 1..90_000usize, space in 1..400_000usize, zeros in 0..2_000_000usize,
        ) {
            let bytes = [sample(len), vec![0; zeros]].concat();
            let two = [coded(&bytes, 20), coded(b"more", 20)].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(expanded(&two, chunk, space)).unwrap();
            prop_assert!(got == [&bytes[..], b"more"].concat());
        }
    }

    #[tokio::test]
    async fn what_is_not_whole_or_not_zstd_or_takes_much_memory_is_refused() {
        let bytes = sample(300_000);
        let whole = coded(&bytes, 20);
        let mut changed = whole.clone();
        changed[1000] ^= 1;
        for wrong in [&whole[..whole.len() - 1], &whole[..10], b"", b"plain bytes", &changed, &coded(&bytes, 24)] {
            let fault = expanded(wrong, 7000, 50_000).await.unwrap_err();
            assert_eq!(fault.point.as_deref(), Some("content-encoding"), "{}", fault.told);
        }
        assert!(expanded(&coded(&bytes, 23), 7000, 50_000).await.is_ok());
    }
}
