//! Volumes that are filled from archives, as clients see them.

mod attacks;
mod client;
mod crash;
mod life;
mod model;
pub(crate) mod remote;
mod rot;
mod sessions;
