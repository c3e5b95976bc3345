//! The names of a backup's objects in the storage, and its metadata.
//!
//! ```text
//! <container>/volume_<volume id>/<YYYYMMDDHHMMSS>/az_<zone>_backup_<number>-<00001...>   the objects
//! <container>/volume_<volume id>/<YYYYMMDDHHMMSS>/az_<zone>_backup_<number>_metadata     the manifest
//! ```
//! The objects are named as in HP's Block Storage document (section 4.5.3.4), which has no manifest. The only part of a
//! name that a user chooses is the container, whose characters are restricted.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use object_store::path::Path as Key;

use crate::domain::{Backup, BackupId, ByteCount, TenantId, UnixTime, VolumeId};

/// The first segment of the paths of backups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Container(String);

/// A text that cannot name a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a container has 1 to 255 letters, digits, '.', '_' and '-', and does not start with '.'")]
pub(crate) struct NotAContainer;

impl Container {
    /// The longest name of a file on common file systems.
    const LONGEST: usize = 255;

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Container {
    /// Returns the container of HP's document.
    fn default() -> Self {
        Self("volumebackups".to_owned())
    }
}

impl FromStr for Container {
    type Err = NotAContainer;

    fn from_str(text: &str) -> Result<Self, NotAContainer> {
        let fits = (1..=Self::LONGEST).contains(&text.len()) && !text.starts_with('.') && text.chars().all(is_plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(NotAContainer) }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The metadata of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackupHead {
    /// Its identity.
    pub backup: BackupId,
    /// Its number, which is part of the names of its objects.
    pub number: u64,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The drive that it is of.
    pub volume: VolumeId,
    /// Its label.
    pub name: Option<String>,
    /// The description by its owner.
    pub description: Option<String>,
    /// The size of the drive.
    pub size: ByteCount,
    /// The zone of the drive.
    pub zone: String,
    /// The container that holds its objects.
    pub container: Container,
    /// The time at which it was started.
    pub created: UnixTime,
}

impl BackupHead {
    /// Returns the head of a backup of the database.
    pub(crate) fn of(backup: &Backup, container: Container, zone: impl Into<String>) -> Self {
        Self {
            backup: backup.id,
            number: backup.number,
            tenant: backup.tenant,
            volume: backup.volume,
            name: backup.name.clone(),
            description: backup.description.clone(),
            size: backup.size,
            zone: zone.into(),
            container,
            created: backup.created,
        }
    }

    /// Whether both are of one backup. Labels are ignored, as they may have changed.
    pub(super) fn is_same_backup(&self, other: &Self) -> bool {
        let unlabelled = |head: &Self| Self { name: None, description: None, ..head.clone() };
        unlabelled(self) == unlabelled(other)
    }

    pub(super) fn place(&self) -> Place {
        // The zone is any text of the configuration: characters that a name cannot hold become underscores.
        let zone: String = self.zone.chars().take(64).map(|c| if is_plain(c) { c } else { '_' }).collect();
        Place {
            directory: format!("{}/volume_{}/{}", self.container, self.volume, spelled(self.created)),
            stem: format!("az_{zone}_backup_{}", self.number),
        }
    }
}

/// The names of one backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The names of its objects up to the last slash. Another backup of the drive started in the same second has the
    /// same.
    directory: String,
    stem: String,
}

/// The end of a manifest's name.
pub(super) const MANIFEST: &str = "_metadata";

impl Place {
    pub(super) fn directory(&self) -> &str {
        &self.directory
    }

    /// The common prefix of its file names within the directory.
    pub(super) fn stem(&self) -> &str {
        &self.stem
    }

    pub(super) fn prefix(&self) -> Key {
        Key::from(self.directory.as_str())
    }

    pub(super) fn manifest(&self) -> Key {
        Key::from(format!("{}/{}{MANIFEST}", self.directory, self.stem))
    }

    pub(super) fn object(&self, number: u64) -> Key {
        Key::from(format!("{}/{}-{number:05}", self.directory, self.stem))
    }

    /// Returns the number of an object of this backup; `None` for another key.
    pub(super) fn number_of(&self, key: &Key) -> Option<u64> {
        let number = key.filename()?.strip_prefix(&self.stem)?.strip_prefix('-')?.parse().ok()?;
        (self.object(number) == *key).then_some(number)
    }
}

/// Whether a key has the form of a manifest's.
pub(super) fn may_be_manifest(key: &Key) -> bool {
    key.as_ref().ends_with(MANIFEST) && key.parts().count() == 4
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// Formats a time in UTC, to the second.
fn spelled(time: UnixTime) -> String {
    // No backup has a time before 1970 or after 9999.
    Timestamp::from_millisecond(time.0.max(0)).unwrap_or_default().strftime("%Y%m%d%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::head;

    #[test]
    fn names_are_those_of_the_hp_document() {
        let volume: VolumeId = "795114e8-7489-40be-a978-83797f2c1dd3".parse().unwrap();
        let head = BackupHead {
            volume,
            number: 1,
            zone: "az1".to_owned(),
            container: Container::default(),
            created: UnixTime(1_359_637_871_999),
            ..head(ByteCount::ZERO)
        };
        let place = head.place();
        let directory = "volumebackups/volume_795114e8-7489-40be-a978-83797f2c1dd3/20130131131111";
        assert_eq!(place.object(1).as_ref(), format!("{directory}/az_az1_backup_1-00001"));
        assert_eq!(place.object(123_456).as_ref(), format!("{directory}/az_az1_backup_1-123456"));
        assert_eq!(place.manifest().as_ref(), format!("{directory}/az_az1_backup_1_metadata"));
        assert!(may_be_manifest(&place.manifest()));
        assert!(!may_be_manifest(&place.object(1)));
    }

    #[test]
    fn an_object_is_known_by_its_name_and_no_other() {
        let mut head = BackupHead { number: 1, zone: "z".to_owned(), ..head(ByteCount::ZERO) };
        let place = head.place();
        for number in [1, 99_999, 100_000, u64::MAX] {
            assert_eq!(place.number_of(&place.object(number)), Some(number));
        }
        head.number = 11;
        assert_eq!(place.number_of(&head.place().object(1)), None);
        assert_eq!(place.number_of(&place.manifest()), None);
        for wrong in ["az_z_backup_1-1", "az_z_backup_1-000001", "az_z_backup_1-", "az_z_backup_1-+0001"] {
            let key = Key::from(format!("{}/{wrong}", place.directory()));
            assert_eq!(place.number_of(&key), None, "{wrong}");
        }
    }

    #[test]
    fn a_zone_of_any_letters_makes_a_name() {
        for zone in ["../../etc", "a zone", "\u{fc}ber", "a/b#1", "%2e%2e", ""] {
            let head = BackupHead { zone: zone.to_owned(), ..head(ByteCount::ZERO) };
            let key = head.place().object(1);
            assert_eq!(key.parts().count(), 4, "{zone}");
            assert!(key.as_ref().chars().all(|c| is_plain(c) || c == '/'), "{zone}");
        }
        let long = BackupHead { zone: "z".repeat(1000), ..head(ByteCount::ZERO) };
        assert!(long.place().stem().len() < 128);
    }

    #[test]
    fn a_container_is_one_plain_segment() {
        for name in ["volumebackups", "a", "A-1_b.c", "-", "_", &"x".repeat(255)] {
            assert!(name.parse::<Container>().is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".a", "a/b", "a b", "a\0", "a%2f", "\u{e4}", "a\n", "a#1", &"x".repeat(256)] {
            assert_eq!(name.parse::<Container>(), Err(NotAContainer), "{name}");
        }
    }

    #[test]
    fn a_backup_is_the_same_under_another_label_only() {
        let one = head(ByteCount::mib(1));
        assert!(one.is_same_backup(&BackupHead { name: Some("other".to_owned()), ..one.clone() }));
        assert!(!one.is_same_backup(&BackupHead { tenant: TenantId::random(), ..one.clone() }));
        assert!(!one.is_same_backup(&BackupHead { size: ByteCount::mib(2), ..one.clone() }));
    }
}
