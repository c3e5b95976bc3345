//! A list that is longer than what is held of it: told in pieces, each looked up when the one before was taken.
//!
//! Every list of our dialects is an envelope around items, which commas separate. So a piece is encoded as a list of
//! its own, of which the envelope is cut off.
//!
//! # Invariants
//! - What is held is one piece, for which there is room, and the ids of what is still to be told (I12).
//! - The list is that of one moment, but for what was removed since, which is left out.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::request::Parts;

use super::Server;
use super::answers::{PAGE, Room};
use super::handle::resolved;
use crate::control::PIECE;
use crate::dialect::{Answer, Places, Reply};
use crate::domain::{Fault, Outcome, TenantId, VolumeId};

/// The request that asked for a list.
pub(super) struct Asked {
    pub(super) answer: Answer,
    pub(super) parts: Parts,
    pub(super) places: Places,
    pub(super) tenant: Option<TenantId>,
}

/// Some of a list, and the room that it takes.
pub(super) type Piece = (Bytes, Option<Room>);

/// What is still to be told of a list.
pub(super) struct List {
    server: Arc<Server>,
    asked: Asked,
    /// With the piece that was told last.
    outcome: Outcome,
    rest: std::vec::IntoIter<VolumeId>,
    /// How long the envelope is before the items.
    before: usize,
    /// The envelope behind them.
    after: Bytes,
    has_items: bool,
    is_told: bool,
}

impl List {
    /// The list that `outcome` begins and `rest` continues.
    pub(super) fn new(server: &Arc<Server>, asked: Asked, mut outcome: Outcome, rest: Vec<VolumeId>) -> Self {
        let items = outcome.listing_mut().map(|listing| std::mem::take(&mut listing.volumes)).unwrap_or_default();
        let mut list = Self {
            server: server.clone(),
            asked,
            outcome,
            rest: rest.into_iter(),
            before: 0,
            after: Bytes::new(),
            has_items: !items.is_empty(),
            is_told: false,
        };
        // Its beginning was encoded just now.
        let envelope = list.encoded().unwrap_or_default();
        // No other array stands behind that of the items.
        list.before = envelope.windows(2).rposition(|pair| pair == b"[]").map_or(0, |at| at + 1);
        list.after = envelope.slice(list.before..);
        list
    }

    /// What was encoded of the list's beginning, without the end of the envelope.
    pub(super) fn beginning(&self, whole: &Bytes) -> Bytes {
        whole.slice(..whole.len() - self.after.len())
    }

    /// The next piece, with the room that it takes; none behind the last.
    pub(super) async fn next(mut self) -> (Self, Option<io::Result<Piece>>) {
        let piece = self.piece().await;
        (self, piece)
    }

    async fn piece(&mut self) -> Option<io::Result<Piece>> {
        loop {
            if self.is_told {
                return None;
            }
            let ids: Vec<VolumeId> = self.rest.by_ref().take(PIECE).collect();
            if ids.is_empty() {
                self.is_told = true;
                return Some(Ok((self.after.clone(), None)));
            }
            let room = match self.server.answers.room(self.asked.tenant, PAGE, self.server.limits.idle).await {
                Ok(room) => room,
                Err(fault) => return Some(Err(io::Error::other(fault))),
            };
            let volumes = match self.server.control.volumes(&ids).await {
                Ok(volumes) => volumes,
                Err(fault) => return Some(Err(io::Error::other(fault))),
            };
            if volumes.is_empty() {
                continue;
            }
            if let Some(listing) = self.outcome.listing_mut() {
                listing.volumes = volumes;
            }
            let whole = match self.encoded() {
                Ok(whole) => whole,
                Err(fault) => return Some(Err(io::Error::other(fault))),
            };
            let items = &whole[self.before..whole.len() - self.after.len()];
            let mut piece = BytesMut::with_capacity(items.len() + 1);
            if std::mem::replace(&mut self.has_items, true) {
                piece.put_u8(b',');
            }
            piece.extend_from_slice(items);
            let room = room.fit(piece.len());
            return Some(Ok((piece.freeze(), room)));
        }
    }

    /// The list of the volumes that are held now.
    fn encoded(&self) -> Result<Bytes, Fault> {
        let Asked { answer, parts, places, .. } = &self.asked;
        // What is told of a list depends on no body.
        answer.encode(&resolved(parts, None).call, &self.outcome, places).map(Reply::into_body)
    }
}
