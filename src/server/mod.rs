//! Sockets: listeners, TLS, framing, sendfile.

pub mod framing;
pub mod listener;
pub mod sendfile;
pub mod tls;
pub mod watched;
