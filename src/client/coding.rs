//! Whether parts are compressed on the line.
//!
//! It pays where the line is slower than the processor, and nothing is known of either before: so parts are sent both
//! ways and measured, and what brings more bytes of the drive a second is gone on with.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::StatusCode;

use super::ClientError;

/// Level and window: some 300 MB/s of one core, and half a MiB of memory on either side.
const LEVEL: i32 = 1;
const WINDOW_LOG: u32 = 19;
/// The bytes of a part that is sent to measure.
const TRIAL: u64 = 8 << 20;
/// The bytes that are compressed to see what that does.
const SAMPLE: usize = 256 << 10;
/// What must be left of a sample at most, as a share of it.
const SMALLER: f64 = 0.8;
/// The least rate of compression, in times the line's: other parts and the digest take processors, too.
const AHEAD: f64 = 2.0;
/// How much better compressed parts must be, in times: beside noise, they take power and heat.
const BETTER: f64 = 1.15;
/// Parts after which the other way is tried again: lines change.
const AGAIN: u32 = 16;
/// The weight of the last measurement.
const WEIGHT: f64 = 0.3;

/// When parts are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Compression {
    /// When that is faster.
    #[default]
    Auto,
    /// If the server takes it.
    Always,
    /// Never.
    Never,
}

/// What is known of the line and of the processor.
pub(super) struct Coding {
    wish: Compression,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Bytes of the drive in a second, by parts that are sent as they are and by compressed ones.
    plain: Option<f64>,
    coded: Option<f64>,
    chosen: u32,
    is_refused: bool,
}

/// How the next part is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) is_coded: bool,
    /// The most bytes of it.
    pub(super) most: u64,
}

/// What compression does to some bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// What is left of them, as a share.
    left: f64,
    /// Bytes in a second.
    rate: f64,
}

impl Sample {
    /// Compresses some bytes. Blocks.
    pub(super) fn of(bytes: &[u8]) -> io::Result<Self> {
        let began = Instant::now();
        let coded = compressed(&bytes[..bytes.len().min(SAMPLE)])?;
        let len = bytes.len().clamp(1, SAMPLE) as f64;
        Ok(Self { left: coded.len() as f64 / len, rate: len / began.elapsed().as_secs_f64().max(1e-9) })
    }

    /// Compresses the beginning of a range of a file. Blocks.
    pub(super) fn of_file(file: &File, range: &Range<u64>) -> io::Result<Self> {
        let mut bytes = vec![0; (range.end - range.start).min(SAMPLE as u64) as usize];
        file.read_exact_at(&mut bytes, range.start)?;
        Self::of(&bytes)
    }
}

impl Coding {
    pub(super) fn new(wish: Compression) -> Self {
        Self { wish, known: Mutex::default() }
    }

    /// Whether a choice takes a sample.
    pub(super) fn takes_sample(&self) -> bool {
        let known = self.known();
        self.wish == Compression::Auto && !known.is_refused && known.plain.is_some()
    }

    /// Chooses for the next part. Without a sample it is sent as it is, unless that is settled.
    pub(super) fn choose(&self, sample: Option<Sample>) -> Choice {
        let mut known = self.known();
        let whole = |is_coded| Choice { is_coded, most: u64::MAX };
        let trial = |is_coded| Choice { is_coded, most: TRIAL };
        if known.is_refused || self.wish != Compression::Auto {
            return whole(!known.is_refused && self.wish == Compression::Always);
        }
        let (Some(plain), Some(sample)) = (known.plain, sample) else { return trial(false) };
        if sample.left > SMALLER || sample.rate < AHEAD * plain {
            return whole(false);
        }
        let Some(coded) = known.coded else { return trial(true) };
        known.chosen += 1;
        let is_better = coded > BETTER * plain;
        if known.chosen.is_multiple_of(AGAIN) { trial(!is_better) } else { whole(is_better) }
    }

    /// Takes note of how long a part took.
    pub(super) fn note(&self, bytes: u64, is_coded: bool, time: Duration) {
        // Of small parts the way there and back is measured.
        if bytes < TRIAL / 4 {
            return;
        }
        let rate = bytes as f64 / time.as_secs_f64().max(1e-9);
        let mut known = self.known();
        let before = if is_coded { &mut known.coded } else { &mut known.plain };
        *before = Some(before.map_or(rate, |before| before + WEIGHT * (rate - before)));
    }

    /// Whether this is a refusal of a compressed part, which may be sent as it is.
    pub(super) fn is_refused_by(&self, error: &ClientError) -> bool {
        // A server that has no room to decompress may have some for the next.
        let is_of_type = error.is_status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        self.known().is_refused |= is_of_type;
        is_of_type || error.is_status(StatusCode::SERVICE_UNAVAILABLE)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compresses bytes piece by piece.
pub(super) struct Packer(zstd::stream::write::Encoder<'static, Vec<u8>>);

impl Packer {
    pub(super) fn new() -> io::Result<Self> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.include_checksum(true)?;
        Ok(Self(encoder))
    }

    /// Adds bytes; returns what is ready of the result.
    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(bytes)?;
        Ok(std::mem::take(self.0.get_mut()))
    }

    /// Returns the rest.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        self.0.finish()
    }
}

/// Compresses bytes. Blocks.
pub(super) fn compressed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = Packer::new()?;
    let mut coded = packer.add(bytes)?;
    coded.extend(packer.finish()?);
    Ok(coded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Sample = Sample { left: 0.3, rate: 300e6 };
    const PLAIN: Choice = Choice { is_coded: false, most: u64::MAX };
    const CODED: Choice = Choice { is_coded: true, most: u64::MAX };

    fn noted(coding: &Coding, is_coded: bool, rate: f64) {
        coding.note(TRIAL, is_coded, Duration::from_secs_f64(TRIAL as f64 / rate));
    }

    #[test]
    fn parts_are_compressed_where_that_was_faster() {
        let coding = Coding::new(Compression::Auto);
        assert!(!coding.takes_sample());
        assert_eq!(coding.choose(None), Choice { is_coded: false, most: TRIAL });
        noted(&coding, false, 10e6);
        assert!(coding.takes_sample());
        assert_eq!(coding.choose(Some(Sample { left: 0.99, ..FAST })), PLAIN);
        assert_eq!(coding.choose(Some(FAST)), Choice { is_coded: true, most: TRIAL });
        noted(&coding, true, 30e6);
        let chosen: Vec<Choice> = (0..AGAIN).map(|_| coding.choose(Some(FAST))).collect();
        let (last, others) = chosen.split_last().unwrap();
        assert!(others.iter().all(|choice| *choice == CODED), "{others:?}");
        assert_eq!(*last, Choice { is_coded: false, most: TRIAL });
        // The line is faster now.
        (0..30).for_each(|_| noted(&coding, false, 29e6));
        assert_eq!(coding.choose(Some(FAST)), PLAIN);
    }

    #[test]
    fn nothing_is_compressed_on_a_line_that_is_about_as_fast() {
        let coding = Coding::new(Compression::Auto);
        noted(&coding, false, 200e6);
        assert_eq!(coding.choose(Some(FAST)), PLAIN);
        assert_eq!(Coding::new(Compression::Never).choose(None), PLAIN);
    }

    #[test]
    fn a_server_that_takes_no_compressed_parts_gets_none() {
        let refused = |status| ClientError::Refused { status, told: String::new(), retry: None };
        let coding = Coding::new(Compression::Always);
        assert!(coding.is_refused_by(&refused(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(!coding.is_refused_by(&refused(StatusCode::BAD_REQUEST)));
        assert_eq!(coding.choose(None), CODED);
        assert!(coding.is_refused_by(&refused(StatusCode::UNSUPPORTED_MEDIA_TYPE)));
        assert_eq!(coding.choose(None), PLAIN);
    }

    #[test]
    fn compressed_bytes_are_those_that_went_in() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7 % 251) as u8).collect();
        let mut packer = Packer::new().unwrap();
        let mut coded = Vec::new();
        bytes.chunks(100_001).for_each(|chunk| coded.extend(packer.add(chunk).unwrap()));
        coded.extend(packer.finish().unwrap());
        assert!(zstd::decode_all(&coded[..]).unwrap() == bytes);
        assert!(zstd::decode_all(&compressed(&bytes).unwrap()[..]).unwrap() == bytes);
        assert!(Sample::of(&bytes).unwrap().left < 0.1);
    }
}
