//! Compressed tar streams: gzip and zstd, with a bound on their expansion.
//!
//! Several gzip members or zstd frames in a row are one stream; anything else after the end is an error. The caller
//! gives the encoding; it is never guessed from the bytes.

use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::domain::Encoding;

/// Limits on the expansion of a compressed stream.
#[derive(Clone, Copy, Debug)]
pub struct DecoderLimits {
    /// Decoded bytes altogether.
    pub bytes: u64,
    /// Decoded bytes for each encoded one, over the whole stream so far.
    pub ratio: u64,
}

impl DecoderLimits {
    /// Limits for a volume of so many bytes: twice its size, which leaves room for headers, and the ratio of text with
    /// many repetitions.
    pub fn of_volume(bytes: u64) -> Self {
        Self { bytes: bytes.saturating_mul(2).max(SLACK), ratio: 200 }
    }
}

/// Bytes that may be decoded before the ratio counts: a small stream of zeros is no bomb.
const SLACK: u64 = 16 << 20;

/// The largest window of a zstd frame: the 8 MiB that RFC 8878 asks every decoder for, and all that `zstd` uses without
/// `--ultra` or `--long`.
const WINDOW_LOG: u32 = 23;

const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Bytes of encoded data per read.
const BUFFER: usize = 64 << 10;

/// Why a stream cannot be decoded. It is inside the [`io::Error`] of a [`Decoder`]; errors of the source are passed on
/// unchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("the stream expands too much")]
    Expansion,
    #[error("the stream is cut short")]
    CutShort,
    #[error("the stream is broken")]
    Broken(#[source] io::Error),
}

/// Decodes a stream.
pub struct Decoder<'a, R: Read> {
    inner: Inner<'a, R>,
    limits: DecoderLimits,
    decoded: u64,
}

enum Inner<'a, R: Read> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(zstd::Decoder<'a, Source<R>>),
}

impl<R: Read> Decoder<'_, R> {
    /// Decodes `reader`. A plain stream cannot expand, so the limits do not apply to it.
    pub fn new(reader: R, encoding: Encoding, limits: DecoderLimits) -> io::Result<Self> {
        let source = |reader| Source { reader: BufReader::with_capacity(BUFFER, reader), taken: 0, failed: false };
        let inner = match encoding {
            Encoding::Plain => Inner::Plain(reader),
            Encoding::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(source(reader)))),
            Encoding::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(source(reader))?;
                decoder.window_log_max(WINDOW_LOG)?;
                Inner::Zstd(decoder)
            }
        };
        Ok(Self { inner, limits, decoded: 0 })
    }
}

impl<R: Read> Read for Decoder<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (result, source) = match &mut self.inner {
            Inner::Plain(reader) => return reader.read(into),
            Inner::Gzip(decoder) => (decoder.read(into), (**decoder).get_ref()),
            Inner::Zstd(decoder) => (decoder.read(into), decoder.get_ref()),
        };
        let read = result.map_err(|error| match error.kind() {
            _ if source.failed => error,
            io::ErrorKind::UnexpectedEof => io::Error::other(DecodeError::CutShort),
            _ => io::Error::other(DecodeError::Broken(error)),
        })?;
        self.decoded += read as u64;
        let fair = source.taken.saturating_mul(self.limits.ratio).max(SLACK);
        if self.decoded > self.limits.bytes.min(fair) {
            return Err(io::Error::other(DecodeError::Expansion));
        }
        Ok(read)
    }
}

/// Reads the encoded data. It counts the bytes, and remembers whether the reader has failed.
struct Source<R> {
    reader: BufReader<R>,
    taken: u64,
    failed: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let read = there.len().min(into.len());
        into[..read].copy_from_slice(&there[..read]);
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
            }
        }
        Ok(self.reader.buffer())
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount as u64;
        self.reader.consume(amount);
    }
}

/// Encodes a stream, which is complete only after [`Encoder::finish`].
pub enum Encoder<'a, W: Write> {
    /// Not compressed.
    Plain(W),
    /// Gzip, without name and time in its header: the same tree gives the same bytes.
    Gzip(GzEncoder<W>),
    /// Zstd, with a checksum.
    Zstd(zstd::Encoder<'a, W>),
}

impl<W: Write> Encoder<'_, W> {
    /// Encodes into `writer`.
    pub fn new(writer: W, encoding: Encoding) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Plain => Self::Plain(writer),
            Encoding::Gzip => Self::Gzip(GzEncoder::new(writer, Compression::new(GZIP_LEVEL))),
            Encoding::Zstd => {
                let mut encoder = zstd::Encoder::new(writer, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Writes the rest; returns the writer.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(writer) => Ok(writer),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(writer) => writer.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(writer) => writer.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODINGS: [Encoding; 3] = [Encoding::Plain, Encoding::Gzip, Encoding::Zstd];
    const WIDE: DecoderLimits = DecoderLimits { bytes: u64::MAX, ratio: u64::MAX };

    fn encoded(data: &[u8], encoding: Encoding) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), encoding).expect("an encoder");
        encoder.write_all(data).expect("a vector takes all");
        encoder.finish().expect("a vector takes all")
    }

    fn decoded(data: &[u8], encoding: Encoding, limits: DecoderLimits) -> Result<Vec<u8>, DecodeError> {
        let mut out = Vec::new();
        let mut decoder = Decoder::new(data, encoding, limits).expect("a decoder");
        match decoder.read_to_end(&mut out) {
            Ok(_) => Ok(out),
            Err(error) => Err(error.downcast().expect("a slice does not fail")),
        }
    }

    /// Bytes that compress a little.
    fn sample(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 28) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn a_stream_is_decoded_as_it_was_encoded() {
        for encoding in ENCODINGS {
            for len in [0, 1, 511, 100_000, 1 << 20] {
                let data = sample(len);
                assert!(decoded(&encoded(&data, encoding), encoding, WIDE).expect("whole") == data, "{encoding:?}");
            }
        }
    }

    #[test]
    fn the_same_bytes_are_encoded_to_the_same_bytes() {
        for encoding in ENCODINGS {
            assert!(encoded(&sample(99_999), encoding) == encoded(&sample(99_999), encoding), "{encoding:?}");
        }
    }

    #[test]
    fn streams_one_after_the_other_are_one() {
        for encoding in ENCODINGS {
            let two = [encoded(b"one", encoding), encoded(b"two", encoding)].concat();
            assert_eq!(decoded(&two, encoding, WIDE).expect("whole"), b"onetwo");
        }
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            for junk in [b"x".as_slice(), &[0; 600], b"\x1f\x8b", b"\x28\xb5\x2f\xfd"] {
                let data = [&encoded(b"data", encoding), junk].concat();
                assert!(decoded(&data, encoding, WIDE).is_err(), "{encoding:?} {}", junk.escape_ascii());
            }
        }
    }

    #[test]
    fn a_stream_cut_short_or_changed_is_refused() {
        let data = sample(3000);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let whole = encoded(&data, encoding);
            for cut in 1..whole.len() {
                assert!(
                    matches!(decoded(&whole[..cut], encoding, WIDE), Err(DecodeError::CutShort)),
                    "{encoding:?} cut at {cut}"
                );
            }
            for at in (10..whole.len()).step_by(37) {
                let mut changed = whole.clone();
                changed[at] ^= 0x10;
                assert!(decoded(&changed, encoding, WIDE).is_err(), "{encoding:?} changed at {at}");
            }
        }
    }

    #[test]
    fn a_bomb_is_stopped_by_its_ratio_and_by_its_size() {
        let zeros = vec![0; 64 << 20];
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let bomb = encoded(&zeros, encoding);
            let ratio = DecoderLimits { bytes: u64::MAX, ratio: 100 };
            assert!(matches!(decoded(&bomb, encoding, ratio), Err(DecodeError::Expansion)), "{encoding:?}");
            let size = DecoderLimits { bytes: zeros.len() as u64 - 1, ratio: u64::MAX };
            assert!(matches!(decoded(&bomb, encoding, size), Err(DecodeError::Expansion)), "{encoding:?}");
            let enough = DecoderLimits { bytes: zeros.len() as u64, ratio: u64::MAX };
            assert!(decoded(&bomb, encoding, enough).is_ok(), "{encoding:?}");
        }
    }

    #[test]
    fn a_zstd_frame_that_needs_much_memory_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.window_log(27).expect("a window");
        encoder.write_all(&sample(1 << 20)).expect("a vector takes all");
        let large = encoder.finish().expect("a vector takes all");
        assert!(matches!(decoded(&large, Encoding::Zstd, WIDE), Err(DecodeError::Broken(_))));
    }

    #[test]
    fn an_error_of_the_source_stays_what_it_was() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::TimedOut.into())
            }
        }
        for encoding in ENCODINGS {
            let head = encoded(&sample(1000), encoding);
            let broken = head[..head.len() / 2].chain(Fails);
            let mut decoder = Decoder::new(broken, encoding, WIDE).expect("a decoder");
            let error = decoder.read_to_end(&mut Vec::new()).expect_err("it breaks off");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{encoding:?}");
        }
    }
}
