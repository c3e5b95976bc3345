//! The behaviour of the real binary, as real clients see it.

mod harness;

mod control;
mod download;
mod floors;
mod framing;
mod heavy;
mod lifecycle;
mod ranges;
mod readme;
mod tenants;
mod upload;
mod users;
