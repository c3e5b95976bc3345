//! Longshore loads drive images and volumes into a cloud over plain HTTP, and unloads them again.
//!
//! # Floors
//! A floor imports only floors below it, and siblings do not know each other; a test reads every `use crate::` and
//! fails on a breach.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 5 | `cli` | the commands, from arguments to exit code |
//! | 4 | `server` | sockets: listeners, TLS, framing, routing, drain, sendfile |
//! | 3 | `control` | use cases: commands, uploads, sessions, downloads, jobs, sweeper, scrub |
//! | 3 | `dialect` | wire to domain and back, pure; imports `domain` only |
//! | 2 | `transfer` | the hot path: receive, send, unpack, pack, digests, phase clocks; knows no HTTP |
//! | 2 | `auth` | who is calling: users, passwords, tokens (also signed ones), access keys, tickets; the identity service |
//! | 1 | `io` | bytes to a file descriptor: engines and the block pool |
//! | 1 | `store` | volumes on a backend; uses `io` and `tree` |
//! | 1 | `meta` | what we know: one struct over one database |
//! | 1 | `archive` | backups of drives as objects, in a directory or in S3; uses `io` |
//! | 1 | `remote` | bytes from elsewhere: HTTP files and git trees, under an address policy; services of the cloud |
//! | 1 | `tree` | directories from tar streams and into them; blocks, for one thread per stream |
//! | 1 | `client` | uploads, downloads and lists by way of a server elsewhere; no part of it; uses `tree` |
//! | 0 | `domain` | words and rules; imports nothing |
//!
//! Beside them: `app` composes them and is the only place that picks engine, store and database; `config` turns file,
//! environment and flags into typed settings; `metrics` names every metric. These are passed in, never global.
//!
//! # Routes
//! Whatever fills a drive hands its bytes to one writer (`transfer::DraftWriter`), which knows of each piece of 4 MiB
//! whether it is whole, mixed or missing (`store::PieceMap`).
//!
//! *Bytes up*: large bodies over plain HTTP/1.1 go from the socket into an aligned block of the pool, past hyper;
//! others by way of hyper's frames, which are copied. (Waiting for a block is the back-pressure.) Digested while hot,
//! written with several writes in flight, flushed, committed, answered. Uploads that end together share flushes and
//! commits.
//!
//! *A transfer up*: an upload that survives is a record beside its volume and a draft that is kept. Each connection
//! brings a part, of any offset and alignment (`transfer::Assembly`); checkpoints say what is durable, and the next
//! part goes on from there, also after days and a restart. Its end is asked for apart: pieces that no part brought
//! whole are read back, then it is published as any upload. All dialects of it (Content-Range, tus, the IETF's draft,
//! JSON) meet in the URL that its ticket makes. CloudSigma's chunks come by numbers instead, each to a link of its own
//! or in a form, whose fields are read before its file is left on the socket. What the store has already comes over no
//! line: pieces of a base that the client has too, by their BLAKE3, and uploads of parts that become one drive
//! (`store::Draft::copy`).
//!
//! *An archive up*: from the socket into blocks of the pool, which one blocking thread unpacks into a directory of its
//! own, digesting each file. One flush of the file system makes it durable; the end of its session makes it visible, in
//! one transaction.
//!
//! *Bytes down*: on plain HTTP/1.1 the kernel copies from file to socket and no byte enters user space; over TLS or
//! HTTP/2, blocks are read ahead and written out.
//!
//! *A backup*: chunks of a drive, read block by block without its holes, compressed on the blocking threads while the
//! one before is stored; the manifest last. A restore is a draft like any upload, published when every chunk had its
//! digest, and takes the place of what its drive held in one transaction.
//!
//! *A control request*: resolved to an endpoint by its head (`dialect::resolve`, the one way to it), authenticated,
//! body capped and buffered, decoded by its dialect into a command with its caller, executed in one transaction,
//! encoded. What takes long is a job. Commands of the identity service are executed by `auth`, others by `control`.
//!
//! # Invariants
//! Numbered, because code and tests refer to them.
//!
//! - I1 Acknowledge only after flush and metadata commit.
//! - I3 A task waits for a pool block while holding none that is not submitted.
//! - I4 From submit to completion the engine owns buffer and file; dropping a future drops only the answer.
//! - I5 A failed flush is never retried: its draft is lost.
//! - I6 Create: row first, bytes second. Delete: bytes first, row second. A content never changes once it is durable,
//!   but that zeros may be added to a drive's; a volume shows it from the transaction on that says so, and it is
//!   removed only when nothing refers to it: no volume, no session, no job. What is whole and is referred to by nothing
//!   is set aside, since the row may have been lost.
//! - I7 Job steps may run twice and are fenced by a lease.
//! - I9 A partial upload is invisible, and leaves nothing behind; that of a transfer stays, and is charged, until it is
//!   finished, cancelled or expired. What was told to be durable of it never shrinks.
//! - I10 Secrets are stored as digests, compared in constant time, redacted wherever we print.
//! - I11 Bytes never written read as zero, for every tenant, always.
//! - I12 Memory is the block budget, two password digests of 19 MiB, 40 MiB of volumes that were asked for lately, and
//!   a bounded constant per connection, per archive and backup (of which few are worked on at once) and per fetch from
//!   elsewhere, and the digests of a drive's pieces, 4 MiB for each TiB up to its last byte that is not zero, while it
//!   is received, copied or read back (by the scrub one, and those that are sealed). A connection without a login holds
//!   tens of KiB, with HTTP/2 some 200, and 64 of those at a time 2 MiB. Answers that are made or not taken yet have 64
//!   MiB together; a list is held in parts, and by the ids of what it is still to tell.
//! - I13 What is unpacked stays beneath its root and goes through no link, whatever the archive says.
//! - I14 The last room of a disk is the database's, since nothing is removed without it. While the space that is kept
//!   for removing is given up (`domain::Shortage`), no bytes of volumes are written: the store refuses each block, as a
//!   full disk does. Whoever could not write gives back what they took before they ask the database for anything: it
//!   may be waiting for just that.

// The macros that print panic when nobody can read it, and whatever was under way ends with them.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod app;
mod archive;
mod auth;
pub mod cli;
mod client;
mod config;
mod control;
pub mod dialect;
pub mod domain;
pub mod io;
pub mod meta;
mod metrics;
pub mod remote;
mod server;
pub mod store;
pub mod transfer;
pub mod tree;

#[cfg(test)]
#[path = "../tests/it/skipped.rs"]
mod skipped;
