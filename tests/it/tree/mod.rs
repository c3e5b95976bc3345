//! Trees: hostile and unusual archives, comparison with other tar programs, and round trips.

pub(crate) mod corpus;
mod digests;
mod lifecycle;
mod mutated;
mod oracles;
mod round_trip;
mod scratch;
pub(crate) mod snapshot;
pub(crate) mod tarball;
