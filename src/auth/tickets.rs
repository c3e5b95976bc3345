//! Tickets as text: unguessable, bound to one transfer, checked without a database.
//!
//! A ticket is its fields, 16 random bytes, and the HMAC-SHA256 of both, in base64url without padding (RFC 4648
//! section 5). Whoever holds the text can use it, so it is a secret until it expires.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac;
use rand::Rng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::recent::Recent;
use super::{hmac_sha256, private_file};
use crate::domain::{Fault, FaultKind, Secret, TenantId, Ticket, UnixTime, UserId, Verb, VolumeId};
use crate::meta::UserRecord;

const VERSION: u8 = 2;
/// Version, verb, volume, tenant, expiry, user, mark of the user's password.
const FIELDS: usize = 1 + 1 + 16 + 16 + 8 + 16 + MARK;
/// The bytes of a keyed digest of the record of a password.
pub(super) const MARK: usize = 20;
/// The random bytes that make each ticket another.
const RANDOM: usize = 16;
/// The bytes of the HMAC.
const MAC: usize = 32;
/// Stands for a user where there is none.
pub(super) const NOBODY: [u8; 16] = [0; 16];

/// The tickets whose last use is remembered. One that is forgotten ends at its expiry.
const USED: usize = 16 << 10;

/// How long a ticket is good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TicketLife {
    /// From its issue, and from each use, in seconds.
    pub(crate) seconds: u32,
    /// However much it is used, in seconds from its issue.
    pub(crate) most_seconds: u32,
}

/// Issues tickets and checks them, under one key.
pub(crate) struct Tickets {
    key: Zeroizing<[u8; 32]>,
    /// When tickets were used last, by their BLAKE3.
    used: Mutex<Recent<[u8; 32], ()>>,
}

impl Tickets {
    /// Issues and checks tickets under this key; those of another key are refused.
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(key), used: Mutex::new(Recent::new(USED)) }
    }

    /// Returns the text of a new ticket, bound to its user's present password. No two are alike.
    pub(crate) fn issue(&self, ticket: &Ticket, user: Option<&UserRecord>) -> Secret {
        let mut bytes = Vec::with_capacity(FIELDS);
        bytes.push(VERSION);
        bytes.push(verb_byte(ticket.verb));
        bytes.extend_from_slice(ticket.volume.as_bytes());
        bytes.extend_from_slice(ticket.tenant.as_bytes());
        bytes.extend_from_slice(&ticket.expires.0.to_be_bytes());
        bytes.extend_from_slice(ticket.user.as_ref().map_or(&NOBODY, |user| user.as_bytes()));
        bytes.extend_from_slice(&self.mark(user));
        self.seal(bytes)
    }

    /// Returns the ticket of this text, if this server issued it and `now` is before its expiry.
    pub(crate) fn verify(&self, text: &str, now: UnixTime) -> Result<Ticket, Fault> {
        let (ticket, _) = self.read(text).ok_or_else(|| refused("this ticket is not valid"))?;
        if now >= ticket.expires {
            return Err(refused("this ticket has expired; ask for a new one"));
        }
        Ok(ticket)
    }

    /// As [`Tickets::verify`]; and it is a use of the ticket, which is good for a time from then on. One without a user
    /// of this server is not: nobody would tell that they have gone.
    pub(crate) fn use_ticket(&self, text: &str, life: TicketLife, now: UnixTime) -> Result<Ticket, Fault> {
        let (ticket, _) = self.read(text).ok_or_else(|| refused("this ticket is not valid"))?;
        if ticket.user.is_none() {
            return self.verify(text, now);
        }
        let seconds = i64::from(life.seconds) * 1000;
        let end = ticket.expires.0.saturating_add(i64::from(life.most_seconds) * 1000 - seconds);
        let key = *blake3::hash(text.as_bytes()).as_bytes();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in_use = || used.get(&key, UnixTime(now.0 - seconds + 1)).is_some();
        if now.0 >= end || now >= ticket.expires && !is_in_use() {
            return Err(refused("this ticket has expired; ask for a new one"));
        }
        used.put(key, now, ());
        Ok(ticket)
    }

    /// Whether a valid ticket was issued for this user, whose password has not changed since.
    pub(crate) fn is_of(&self, text: &str, user: &UserRecord) -> bool {
        let known = self.read(text).filter(|(ticket, _)| ticket.user == Some(user.id));
        known.is_some_and(|(_, mark)| mark.ct_eq(&self.mark(Some(user))).into())
    }

    /// The mark of a user's present password.
    pub(super) fn mark(&self, user: Option<&UserRecord>) -> [u8; MARK] {
        let record = user.map_or("", |user| &user.password_hash);
        // The fields of a ticket begin with its version, so that none is taken for the other.
        let mac = hmac_sha256(&self.key).chain_update(b"the record of a password: ").chain_update(record).finalize();
        let mut mark = [0; MARK];
        mark.copy_from_slice(&mac.into_bytes()[..MARK]);
        mark
    }

    /// Returns the text of a ticket with these fields, the first of which is the version of its form.
    pub(super) fn seal(&self, mut bytes: Vec<u8>) -> Secret {
        let mut random = [0; RANDOM];
        rand::rng().fill_bytes(&mut random);
        bytes.extend_from_slice(&random);
        let mac = hmac_sha256(&self.key).chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        // A multiple of three bytes has one spelling only in base64, so that changing the text always changes the
        // bytes.
        debug_assert!(bytes.len().is_multiple_of(3), "the fields of a ticket fill a multiple of three bytes");
        Secret::new(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Returns the fields of a ticket that has so many bytes of them, if the HMAC is right.
    pub(super) fn unseal<const FIELDS: usize>(&self, text: &str) -> Option<[u8; FIELDS]> {
        let whole = FIELDS + RANDOM + MAC;
        if text.len() != whole / 3 * 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == whole)?;
        let (sealed, mac) = bytes.split_at(FIELDS + RANDOM);
        // `verify_slice` compares in constant time.
        hmac_sha256(&self.key).chain_update(sealed).verify_slice(mac).ok()?;
        sealed.first_chunk().copied()
    }

    /// Returns the ticket and the mark of its user's password, if the HMAC is right.
    fn read(&self, text: &str) -> Option<(Ticket, [u8; MARK])> {
        let fields = self.unseal::<FIELDS>(text)?;
        let ([version, verb], rest) = fields.split_first_chunk()?;
        let (volume, rest) = rest.split_first_chunk()?;
        let (tenant, rest) = rest.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (user, rest) = rest.split_first_chunk()?;
        let mark = rest.first_chunk()?;
        (*version == VERSION).then_some(())?;
        let ticket = Ticket {
            verb: verb_from(*verb)?,
            volume: VolumeId::from_bytes(*volume),
            tenant: TenantId::from_bytes(*tenant),
            user: (*user != NOBODY).then(|| UserId::from_bytes(*user)),
            expires: UnixTime(i64::from_be_bytes(*expires)),
        };
        Some((ticket, *mark))
    }
}

pub(super) fn refused(told: &str) -> Fault {
    Fault::new(FaultKind::TicketRefused, told)
}

const fn verb_byte(verb: Verb) -> u8 {
    match verb {
        Verb::Download => 1,
    }
}

const fn verb_from(byte: u8) -> Option<Verb> {
    match byte {
        1 => Some(Verb::Download),
        _ => None,
    }
}

/// Reads the key from this file, or writes a new random one, which is durable when this returns. Blocks; for the start
/// only.
///
/// A file that others may read is refused: the key may be known, and whoever knows it can download every volume.
pub(crate) fn load_or_create_key(path: &Path) -> io::Result<Zeroizing<[u8; 32]>> {
    match private_file::open(path) {
        Ok(file) => load(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path)?;
            load(private_file::open(path)?)
        }
        Err(error) => Err(error),
    }
}

fn load(mut file: File) -> io::Result<Zeroizing<[u8; 32]>> {
    if file.metadata()?.len() != 32 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the key file does not hold 32 bytes: remove it"));
    }
    let mut key = Zeroizing::new([0; 32]);
    file.read_exact(&mut *key)?;
    Ok(key)
}

fn create(path: &Path) -> io::Result<()> {
    let mut key = Zeroizing::new([0; 32]);
    rand::rng().fill_bytes(&mut *key);
    private_file::write(path, &*key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    const WHOLE: usize = FIELDS + RANDOM + MAC;
    const TEXT: usize = WHOLE / 3 * 4;

    fn ticket() -> Ticket {
        Ticket {
            verb: Verb::Download,
            volume: VolumeId::random(),
            tenant: TenantId::random(),
            user: None,
            expires: UnixTime(1_000),
        }
    }

    fn refusal(result: Result<Ticket, Fault>) -> String {
        let fault = result.unwrap_err();
        assert_eq!(fault.kind, FaultKind::TicketRefused);
        fault.told
    }

    #[test]
    fn a_ticket_comes_back_as_it_was_issued_until_it_expires() {
        let tickets = Tickets::new([7; 32]);
        let ticket = ticket();
        let text = tickets.issue(&ticket, None).reveal().to_owned();
        assert_eq!(text.len(), TEXT);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert_eq!(tickets.verify(&text, UnixTime(999)).unwrap(), ticket);
        assert!(refusal(tickets.verify(&text, UnixTime(1_000))).contains("expired"));
        assert_ne!(tickets.issue(&ticket, None).reveal().to_owned(), text, "no two are alike");
    }

    #[test]
    fn a_ticket_in_use_is_good_from_each_use_on_and_not_for_ever() {
        let tickets = Tickets::new([7; 32]);
        let ticket = Ticket { user: Some(UserId::random()), ..ticket() };
        let life = TicketLife { seconds: 1, most_seconds: 3 };
        let use_at = |text: &str, now| tickets.use_ticket(text, life, UnixTime(now));
        // Issued at 0.
        let [used, unused] = [(), ()].map(|()| tickets.issue(&ticket, None).reveal().to_owned());
        for now in [500, 1499, 2498, 2999] {
            assert_eq!(use_at(&used, now).unwrap(), ticket, "{now}");
        }
        assert!(refusal(use_at(&used, 3000)).contains("expired"));
        assert!(refusal(use_at(&unused, 1000)).contains("expired"));
        let paused = tickets.issue(&ticket, None).reveal().to_owned();
        assert!(use_at(&paused, 500).is_ok());
        assert!(refusal(use_at(&paused, 1500)).contains("expired"));
        let of_nobody = tickets.issue(&Ticket { user: None, ..ticket }, None).reveal().to_owned();
        assert!(use_at(&of_nobody, 999).is_ok());
        assert!(refusal(use_at(&of_nobody, 1000)).contains("expired"));
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
        let ticket = Ticket { user: Some(alice.id), ..ticket() };
        let text = tickets.issue(&ticket, Some(&alice)).reveal().to_owned();
        assert_eq!(tickets.verify(&text, UnixTime(0)).unwrap(), ticket);
        assert!(tickets.is_of(&text, &alice));
        assert!(!tickets.is_of(&text, &UserRecord { password_hash: "new".to_owned(), ..alice.clone() }));
        assert!(!tickets.is_of(&text, &UserRecord { id: UserId::random(), ..alice }));
    }

    #[test]
    fn a_ticket_of_another_key_is_refused_without_telling_why() {
        let text = Tickets::new([7; 32]).issue(&ticket(), None).reveal().to_owned();
        let told = refusal(Tickets::new([8; 32]).verify(&text, UnixTime(0)));
        assert_eq!(told, refusal(Tickets::new([7; 32]).verify("", UnixTime(0))));
        assert!(!told.contains(&text));
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_refused(place in 0..TEXT, byte: u8) {
            let tickets = Tickets::new([7; 32]);
            let text = tickets.issue(&ticket(), None).reveal().to_owned();
            let mut changed = text.clone().into_bytes();
            changed[place] = byte;
            let changed = String::from_utf8_lossy(&changed).into_owned();
            prop_assume!(changed != text);
            refusal(tickets.verify(&changed, UnixTime(0)));
        }

        #[test]
        fn a_shortened_or_lengthened_text_is_refused(cut in 0..TEXT, tail in "[A-Za-z0-9_=-]{1,8}") {
            let tickets = Tickets::new([7; 32]);
            let text = tickets.issue(&ticket(), None).reveal().to_owned();
            refusal(tickets.verify(&text[..cut], UnixTime(0)));
            refusal(tickets.verify(&text[cut + 1..], UnixTime(0)));
            refusal(tickets.verify(&format!("{text}{tail}"), UnixTime(0)));
        }

        #[test]
        fn no_text_makes_it_panic(text: String, bytes in prop::collection::vec(any::<u8>(), WHOLE)) {
            let tickets = Tickets::new([7; 32]);
            refusal(tickets.verify(&text, UnixTime(0)));
            refusal(tickets.verify(&URL_SAFE_NO_PAD.encode(bytes), UnixTime(0)));
        }
    }

    #[test]
    fn a_key_is_made_once_private_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tickets.key");
        std::fs::write(path.with_extension("new"), b"left by a crash").unwrap();
        let key = load_or_create_key(&path).unwrap();
        assert_ne!(*key, [0; 32]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_or_create_key(&path).unwrap(), key);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_file_that_is_open_to_others_or_cut_short_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tickets.key");
        load_or_create_key(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(load_or_create_key(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, [1; 31]).unwrap();
        assert_eq!(load_or_create_key(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
