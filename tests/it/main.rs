//! The behaviour of the real binary, as real clients see it.

mod harness;

mod control;
mod download;
mod drain;
mod endpoints;
mod framing;
mod heavy;
mod hostile;
mod lifecycle;
mod limits;
mod logs;
mod memory;
mod ranges;
mod readme;
mod tenants;
mod tls;
mod upload;
mod users;
