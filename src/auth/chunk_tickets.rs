//! Tickets for one chunk of a transfer each, in the form and under the key of the others.

use subtle::ConstantTimeEq;

use super::Tickets;
use super::tickets::{MARK, NOBODY, refused};
use crate::domain::{Chunk, ChunkTicket, Fault, Secret, TenantId, TransferId, UnixTime, UserId};
use crate::meta::UserRecord;

/// No other ticket begins with it.
const VERSION: u8 = 3;
/// Version, transfer, tenant, number and size of the chunk, expiry, user, mark of the user's password.
const FIELDS: usize = 1 + 16 + 16 + 8 + 8 + 8 + 16 + MARK;

impl Tickets {
    /// Returns the text of a new ticket, bound to its user's present password. No two are alike.
    pub(crate) fn issue_for_chunk(&self, ticket: &ChunkTicket, user: Option<&UserRecord>) -> Secret {
        let mut bytes = Vec::with_capacity(FIELDS);
        bytes.push(VERSION);
        bytes.extend_from_slice(ticket.transfer.as_bytes());
        bytes.extend_from_slice(ticket.tenant.as_bytes());
        bytes.extend_from_slice(&ticket.chunk.number.to_be_bytes());
        bytes.extend_from_slice(&ticket.chunk.size.to_be_bytes());
        bytes.extend_from_slice(&ticket.expires.0.to_be_bytes());
        bytes.extend_from_slice(ticket.user.as_ref().map_or(&NOBODY, |user| user.as_bytes()));
        bytes.extend_from_slice(&self.mark(user));
        self.seal(bytes)
    }

    /// Returns the ticket of this text, if this server issued it and `now` is before its expiry.
    pub(crate) fn verify_for_chunk(&self, text: &str, now: UnixTime) -> Result<ChunkTicket, Fault> {
        let (ticket, _) = self.read_for_chunk(text).ok_or_else(|| refused("this link is not valid"))?;
        if now >= ticket.expires {
            return Err(refused("this link has expired; ask for a new one"));
        }
        Ok(ticket)
    }

    /// Whether a valid ticket was issued for this user, whose password has not changed since.
    pub(crate) fn is_of_for_chunk(&self, text: &str, user: &UserRecord) -> bool {
        let known = self.read_for_chunk(text).filter(|(ticket, _)| ticket.user == Some(user.id));
        known.is_some_and(|(_, mark)| mark.ct_eq(&self.mark(Some(user))).into())
    }

    fn read_for_chunk(&self, text: &str) -> Option<(ChunkTicket, [u8; MARK])> {
        let fields = self.unseal::<FIELDS>(text)?;
        let ([version], rest) = fields.split_first_chunk()?;
        let (transfer, rest) = rest.split_first_chunk()?;
        let (tenant, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (size, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (user, rest) = rest.split_first_chunk()?;
        let mark = rest.first_chunk()?;
        (*version == VERSION).then_some(())?;
        let ticket = ChunkTicket {
            transfer: TransferId::from_bytes(*transfer),
            tenant: TenantId::from_bytes(*tenant),
            user: (*user != NOBODY).then(|| UserId::from_bytes(*user)),
            chunk: Chunk { number: u64::from_be_bytes(*number), size: u64::from_be_bytes(*size) },
            expires: UnixTime(i64::from_be_bytes(*expires)),
        };
        Some((ticket, *mark))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{FaultKind, Ticket, Verb, VolumeId};

    fn ticket() -> ChunkTicket {
        ChunkTicket {
            transfer: TransferId::random(),
            tenant: TenantId::random(),
            user: None,
            chunk: Chunk { number: 7, size: 5 << 20 },
            expires: UnixTime(300_000),
        }
    }

    fn refusal(result: Result<ChunkTicket, Fault>) -> String {
        let fault = result.unwrap_err();
        assert_eq!(fault.kind, FaultKind::TicketRefused);
        fault.told
    }

    #[test]
    fn a_ticket_comes_back_as_it_was_issued_until_it_expires() {
        let tickets = Tickets::new([7; 32]);
        let ticket = ticket();
        let text = tickets.issue_for_chunk(&ticket, None).reveal().to_owned();
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert_eq!(tickets.verify_for_chunk(&text, UnixTime(299_999)).unwrap(), ticket);
        assert!(refusal(tickets.verify_for_chunk(&text, UnixTime(300_000))).contains("expired"));
        assert_ne!(tickets.issue_for_chunk(&ticket, None).reveal(), text, "no two are alike");
        refusal(Tickets::new([8; 32]).verify_for_chunk(&text, UnixTime(0)));
    }

    #[test]
    fn a_ticket_is_of_its_user_until_there_is_a_new_password() {
        let tickets = Tickets::new([7; 32]);
        let alice = UserRecord {
            name: "alice".to_owned(),
            id: UserId::random(),
            tenant: TenantId::random(),
            is_admin: false,
            password_hash: "old".to_owned(),
        };
        let ticket = ChunkTicket { user: Some(alice.id), ..ticket() };
        let text = tickets.issue_for_chunk(&ticket, Some(&alice)).reveal().to_owned();
        assert!(tickets.is_of_for_chunk(&text, &alice));
        assert!(!tickets.is_of_for_chunk(&text, &UserRecord { password_hash: "new".to_owned(), ..alice.clone() }));
        assert!(!tickets.is_of_for_chunk(&text, &UserRecord { id: UserId::random(), ..alice }));
    }

    #[test]
    fn a_ticket_for_a_download_is_none_for_a_chunk_nor_the_other_way_round() {
        let tickets = Tickets::new([7; 32]);
        let (volume, tenant, expires) = (VolumeId::random(), TenantId::random(), UnixTime(1_000));
        let download = Ticket { verb: Verb::Download, volume, tenant, user: None, expires };
        let download = tickets.issue(&download, None).reveal().to_owned();
        let chunk = tickets.issue_for_chunk(&ticket(), None).reveal().to_owned();
        refusal(tickets.verify_for_chunk(&download, UnixTime(0)));
        assert_eq!(tickets.verify(&chunk, UnixTime(0)).unwrap_err().kind, FaultKind::TicketRefused);
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_refused(place in 0..188_usize, byte: u8) {
            let tickets = Tickets::new([7; 32]);
            let text = tickets.issue_for_chunk(&ticket(), None).reveal().to_owned();
            let mut changed = text.clone().into_bytes();
            changed[place] = byte;
            let changed = String::from_utf8_lossy(&changed).into_owned();
            prop_assume!(changed != text);
            refusal(tickets.verify_for_chunk(&changed, UnixTime(0)));
        }
    }
}
