//! A stream of tar blocks: read in large pieces, handed out without a copy.

use std::io::{ErrorKind, Read};

use super::encoding::DecodeError;
use super::error::{Budget, UnpackCause};

/// What tar counts in.
pub(super) const BLOCK: usize = 512;

/// Four times what a pipe holds, so that a fast writer is drained at once.
const BUFFER: usize = 256 << 10;

pub(super) struct Stream<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Of `start`, in the stream.
    offset: u64,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: vec![0; BUFFER].into(), start: 0, end: 0, offset: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next block.
    pub(super) fn block(&mut self) -> Result<&[u8; BLOCK], UnpackCause> {
        if self.end - self.start < BLOCK {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < BLOCK {
                if self.fill()? == 0 {
                    // So that the offset tells where the stream ended.
                    self.consume(self.end);
                    return Err(UnpackCause::CutShort);
                }
            }
        }
        let at = self.start;
        self.consume(BLOCK);
        self.buffer[at..at + BLOCK].try_into().map_err(|_| UnpackCause::CutShort)
    }

    /// What is there of the next `most` bytes, which are not 0; at least one.
    pub(super) fn piece(&mut self, most: u64) -> Result<&[u8], UnpackCause> {
        let piece = self.available()?.min(usize::try_from(most).unwrap_or(usize::MAX));
        if piece == 0 {
            return Err(UnpackCause::CutShort);
        }
        Ok(&self.buffer[self.start..self.start + piece])
    }

    /// Bytes that are there, as a piece has said.
    pub(super) fn peek(&self, bytes: usize) -> &[u8] {
        &self.buffer[self.start..self.start + bytes]
    }

    /// What is there before the end; empty at the end.
    pub(super) fn rest(&mut self) -> Result<&[u8], UnpackCause> {
        let rest = self.available()?;
        Ok(&self.buffer[self.start..self.start + rest])
    }

    /// Goes on after bytes that were handed out.
    pub(super) fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.end - self.start, "only what was handed out");
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Leaves out bytes that must be there.
    pub(super) fn skip(&mut self, mut bytes: u64) -> Result<(), UnpackCause> {
        while bytes > 0 {
            let piece = self.piece(bytes)?.len();
            self.consume(piece);
            bytes -= piece as u64;
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
                        Err(error) => UnpackCause::Source(error),
                    });
                }
            }
        }
    }
}
