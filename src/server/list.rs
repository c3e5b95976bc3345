//! A list that is not in memory as a whole: it is sent in parts, each of which is looked up when the previous one was
//! taken.
//!
//! Every list of the dialects is an envelope around items with commas between them. So a part is encoded as a list of
//! its own, whose envelope is removed.
//!
//! # Invariants
//! - Memory holds one part, for which room is taken, and the ids of the volumes to come (I12).
//! - The list is that of one moment, without volumes that were removed since.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::request::Parts;

use super::Server;
use super::answers::PAGE;
use super::body::{AnswerPart, PartSource};
use super::head::resolved;
use crate::control::LIST_PART;
use crate::dialect::{Answer, Places, Reply};
use crate::domain::{Fault, Outcome, TenantId, VolumeId};

/// The request that asked for a list.
pub(super) struct Asked {
    pub(super) answer: Answer,
    pub(super) parts: Parts,
    pub(super) places: Places,
    pub(super) tenant: Option<TenantId>,
}

/// The rest of a list.
pub(super) struct List {
    server: Arc<Server>,
    asked: Asked,
    /// The volumes of the last part.
    outcome: Outcome,
    rest: std::vec::IntoIter<VolumeId>,
    /// The length of the envelope before the items.
    before: usize,
    /// The envelope after the items.
    after: Bytes,
    has_items: bool,
    is_told: bool,
}

impl List {
    /// Returns the list that `outcome` begins and `rest` continues.
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
        // The same list was encoded just now, without an error.
        let envelope = list.encoded().unwrap_or_default();
        // No other array follows that of the items.
        list.before = envelope.windows(2).rposition(|pair| pair == b"[]").map_or(0, |at| at + 1);
        list.after = envelope.slice(list.before..);
        list
    }

    /// Returns the encoded beginning of the list, without the end of the envelope.
    pub(super) fn beginning(&self, whole: &Bytes) -> Bytes {
        whole.slice(..whole.len() - self.after.len())
    }

    async fn part(&mut self) -> Option<io::Result<AnswerPart>> {
        loop {
            if self.is_told {
                return None;
            }
            let ids: Vec<VolumeId> = self.rest.by_ref().take(LIST_PART).collect();
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
            let mut part = BytesMut::with_capacity(items.len() + 1);
            if std::mem::replace(&mut self.has_items, true) {
                part.put_u8(b',');
            }
            part.extend_from_slice(items);
            let room = room.fit(part.len());
            return Some(Ok((part.freeze(), room)));
        }
    }

    /// Encodes the list of the current volumes.
    fn encoded(&self) -> Result<Bytes, Fault> {
        let Asked { answer, parts, places, .. } = &self.asked;
        // The encoding of a list does not depend on a request's body.
        answer.encode(&resolved(parts, None).call, &self.outcome, places).map(Reply::into_body)
    }
}

impl PartSource for List {
    async fn next(mut self) -> (Self, Option<io::Result<AnswerPart>>) {
        let part = self.part().await;
        (self, part)
    }
}
