//! The behaviour of the real binary, as real clients see it.

mod harness;

mod block;
mod cancel;
mod connections;
mod control;
mod crash;
mod download;
mod drain;
mod endpoints;
mod ends;
mod floors;
mod framing;
mod full_disk;
mod heavy;
mod hostile;
mod hpc_ai;
mod identity;
mod integrity;
mod lifecycle;
mod limits;
mod logins;
mod logs;
mod loss;
mod memory;
mod proxy;
mod quota;
mod ranges;
mod readme;
mod remote;
mod tenants;
mod tls;
mod tree;
mod upload;
mod users;
mod volumes;
