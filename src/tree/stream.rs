//! A stream of tar blocks, read in large parts and handed out without a copy.

use std::io::{ErrorKind, Read};

use super::encoding::DecodeError;
use super::error::{Budget, UnpackCause};

/// The size of a tar block.
pub(super) const BLOCK: usize = 512;

/// Four times the size of a pipe, so that a fast writer is drained at once.
const BUFFER: usize = 256 << 10;

pub(super) struct Stream<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The offset of `start` in the stream.
    offset: u64,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; BUFFER].into(), start: 0, end: 0, offset: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the next block.
    pub(super) fn block(&mut self) -> Result<&[u8; BLOCK], UnpackCause> {
        if self.end - self.start < BLOCK {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < BLOCK {
                if self.fill()? == 0 {
                    // Makes the reported offset that of the stream's end.
                    self.consume(self.end);
                    return Err(UnpackCause::CutShort);
                }
            }
        }
        let at = self.start;
        self.consume(BLOCK);
        self.buffer[at..at + BLOCK].try_into().map_err(|_| UnpackCause::CutShort)
    }

    /// Returns how many of the next `most` bytes (not 0) are available; at least one.
    pub(super) fn chunk(&mut self, most: u64) -> Result<&[u8], UnpackCause> {
        let chunk = self.available()?.min(usize::try_from(most).unwrap_or(usize::MAX));
        if chunk == 0 {
            return Err(UnpackCause::CutShort);
        }
        Ok(&self.buffer[self.start..self.start + chunk])
    }

    /// Returns bytes that [`Self::chunk`] has found available.
    pub(super) fn peek(&self, bytes: usize) -> &[u8] {
        &self.buffer[self.start..self.start + bytes]
    }

    /// Returns the available bytes; empty at the end of the stream.
    pub(super) fn rest(&mut self) -> Result<&[u8], UnpackCause> {
        let rest = self.available()?;
        Ok(&self.buffer[self.start..self.start + rest])
    }

    /// Moves on past bytes that were handed out.
    pub(super) fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.end - self.start, "only what was handed out");
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Skips bytes, which must exist.
    pub(super) fn skip(&mut self, mut bytes: u64) -> Result<(), UnpackCause> {
        while bytes > 0 {
            let chunk = self.chunk(bytes)?.len();
            self.consume(chunk);
            bytes -= chunk as u64;
        }
        Ok(())
    }

    fn available(&mut self) -> Result<usize, UnpackCause> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.fill()?;
        }
        Ok(self.end - self.start)
    }

    fn fill(&mut self) -> Result<usize, UnpackCause> {
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(match error.downcast() {
                        Ok(DecodeError::Expansion) => Budget::Expansion.into(),
                        Ok(DecodeError::CutShort) => UnpackCause::CutShort,
                        Ok(DecodeError::Broken(cause)) => UnpackCause::Undecodable(cause),
                        Err(error) => UnpackCause::of_source(error),
                    });
                }
            }
        }
    }
}
