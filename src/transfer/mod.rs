//! The hot path: moves bytes from a peer into a draft or a tree, and from an image or a tree to a peer. Knows no HTTP
//! and no tenants.

mod assembly;
mod checksum;
mod compare;
mod digest;
mod error;
mod expand;
mod feed;
mod pack;
mod progress;
mod receive;
mod send;
mod unpack;
mod writer;

pub use assembly::{Assembled, Assembly, DrivePart, Filling, PartOptions, Proof};
pub use compare::compare;
pub use digest::{DigestState, Sha256State};
pub use error::{Broken, ReceiveError};
pub use expand::Expanded;
pub use feed::{ByteSource, ChunkSource, Chunks};
pub use pack::Packing;
pub use progress::{Pace, Phase, Phases, Progress, Running, Stop, Transfers, Transport, Wanted};
pub use receive::{Allowance, receive};
pub use send::{Chunk, Outgoing, Part, Route, Sending};
pub use unpack::{Shape, UnpackOptions, start_unpack};
pub use writer::{DraftWriter, WriteOptions, Written};
