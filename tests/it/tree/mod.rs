//! Trees: hostile and odd archives, other tar programs as judges, and round trips.

mod corpus;
mod lifecycle;
mod mutated;
mod oracles;
mod round_trip;
mod scratch;
mod snapshot;
mod tarball;
