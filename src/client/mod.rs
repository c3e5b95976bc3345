//! Uploads, downloads and lists by way of a server, over HTTP. It is not part of the server: it knows nothing of its
//! data folder, and asks for everything over the line.
//!
//! # Invariants
//! - What is said of a transfer is what the server said last. A record on this side only tells where to ask.
//! - A secret (password, token, ticket) is in no message and in no error.
//! - A file is at its place only when all of it is there, on the disk, and was compared with the digest that the server
//!   tells of it; but one that is brought up to date is changed where it is.
//!
//! # Cancellation
//! Dropping any future here leaves a transfer that the same command goes on with.

mod batch;
mod coding;
mod digest;
mod download;
mod drives;
mod error;
mod exchange;
mod have;
mod limiter;
mod login;
mod meter;
mod parts;
mod receipt;
mod record;
mod retry;
mod scan;
mod sink;
mod throttle;
mod transfers;
mod trees;
mod update;
mod upload;

pub(crate) use batch::{Batch, read_manifest};
pub(crate) use coding::Compression;
pub(crate) use digest::{Algorithm, piece_list_of};
pub(crate) use download::{Destination, Download};
pub(crate) use error::ClientError;
pub(crate) use exchange::Client;
pub(crate) use limiter::Limiter;
pub(crate) use login::{Login, LoginError};
pub(crate) use meter::{Meter, Seen};
pub(crate) use receipt::{ReadBack, ReceiptPlace};
pub(crate) use transfers::Transfer;
pub(crate) use trees::{Pull, Push};
pub(crate) use upload::{Asserted, Source, Upload, Uploaded};
