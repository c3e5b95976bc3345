//! The hot path: bytes from a peer into a draft, and from an image to a peer. Knows no HTTP and no tenants.

mod digest;
mod progress;
mod receive;
mod send;

pub use digest::{PieceDigester, Sha256Lane, Sha256State, zero_piece};
pub use progress::{Pace, Phase, Phases, Progress, Running, Stop, Transfers, Transport};
pub use receive::{Allowance, Broken, ReceiveError, ReceiveOptions, Received, Source, receive};
pub use send::{Chunk, Outgoing, Part, Route};
