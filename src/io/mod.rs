//! Bytes to and from a file descriptor: aligned blocks from a bounded pool, and the engine that moves them.
//!
//! Knows files, offsets and blocks; knows nothing of volumes, stores or the network.

pub mod descriptors;
mod engine;
mod file;
mod idle;
mod operation;
mod pool;
pub mod probe;
mod ring;
mod threads;

pub use engine::{EngineFile, IoEngine, Submitted};
pub use file::{HOLE, SharedFile};
pub use idle::IdleThread;
pub use pool::{ALIGN, BLOCK, Block, Pool, SharedBlock};
pub use ring::Ring;
#[cfg(test)]
pub(crate) use threads::Faults;
pub use threads::Threads;
