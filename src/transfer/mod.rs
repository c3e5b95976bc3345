//! The hot path: bytes from a peer into a draft or a tree, and from an image or a tree to a peer. Knows no HTTP and no
//! tenants.

mod digest;
mod pack;
mod progress;
mod receive;
mod send;
mod unpack;

pub use digest::{Sha256Lane, Sha256State};
pub use pack::Packing;
pub use progress::{Pace, Phase, Phases, Progress, Running, Stop, Transfers, Transport, Wanted};
pub use receive::{Allowance, Broken, ReceiveError, ReceiveOptions, Received, Source, receive};
pub use send::{Chunk, Outgoing, Part, Route, Sending, removal_of};
pub use unpack::{FeedError, Feeder, Shape, UnpackOptions, start_unpack};
