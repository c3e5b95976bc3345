//! The behaviour of the real binary, as real clients see it.

mod harness;

mod cancel;
mod control;
mod crash;
mod download;
mod floors;
mod framing;
mod full_disk;
mod heavy;
mod integrity;
mod lifecycle;
mod quota;
mod ranges;
mod readme;
mod tenants;
mod upload;
mod users;
