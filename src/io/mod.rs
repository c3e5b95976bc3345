//! Bytes to and from a file descriptor: aligned blocks from a bounded pool, and the engine that moves them.
//!
//! Knows files, offsets and blocks; knows nothing of volumes, stores or the network.
