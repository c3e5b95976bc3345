//! The operations of the engines, and the block that is lent to a read.

use std::io;
use std::ops::Range;

use tokio::sync::oneshot;

use super::file::SharedFile;
use super::pool::{Block, SharedBlock};

pub(super) type Filled = (Block, io::Result<usize>);

/// An operation of an engine, which drops buffer and file before it answers.
#[derive(Debug)]
pub(super) enum Operation {
    Write {
        file: SharedFile,
        data: SharedBlock,
        range: Range<usize>,
        offset: u64,
        done: oneshot::Sender<io::Result<()>>,
    },
    Read {
        file: SharedFile,
        loan: Loan,
        len: usize,
        offset: u64,
    },
}

/// A block that a read fills. It is returned to its lender, even when the engine dies with it.
#[derive(Debug)]
pub(super) struct Loan {
    /// `None` once settled.
    held: Option<(Block, oneshot::Sender<Filled>)>,
}

impl AsMut<[u8]> for Loan {
    fn as_mut(&mut self) -> &mut [u8] {
        self.held.as_mut().map(|(block, _)| &mut **block).unwrap_or_default()
    }
}

impl Loan {
    pub(super) fn new(block: Block, done: oneshot::Sender<Filled>) -> Self {
        Self { held: Some((block, done)) }
    }

    /// Returns the block with the outcome.
    pub(super) fn settle(mut self, outcome: io::Result<usize>) {
        self.give_back(outcome);
    }

    fn give_back(&mut self, outcome: io::Result<usize>) {
        if let Some((block, done)) = self.held.take() {
            // Without a receiver, the block is dropped here and returns to its pool.
            let _ = done.send((block, outcome));
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.held.is_some() {
            self.give_back(Err(engine_gone()));
        }
    }
}

pub(super) fn engine_gone() -> io::Error {
    io::Error::other("the I/O engine has ended")
}
