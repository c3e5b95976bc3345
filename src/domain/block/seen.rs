//! Volumes as answers have them: with the last answer that was made of each, and with attachments.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::Attachment;
use crate::domain::Volume;

/// A volume at one revision, with the last answer that was made of it, since clients poll for the same volumes.
#[derive(Debug)]
pub struct Seen {
    volume: Volume,
    told: OnceLock<(String, String)>,
    texts: usize,
}

impl Seen {
    /// A volume without an answer.
    pub fn new(volume: Volume) -> Arc<Self> {
        Self::of_row(volume, 0)
    }

    /// A volume without an answer, from a row whose texts have this length.
    pub fn of_row(volume: Volume, texts: usize) -> Arc<Self> {
        Arc::new(Self { volume, told: OnceLock::new(), texts })
    }

    /// Returns the length of the texts of its row; 0 if it did not come from one.
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// Returns the answer that `tell` makes. It is kept for the first key, and made anew for others. The key names
    /// everything beside the volume on which the answer depends.
    pub fn told(&self, key: &str, tell: impl Fn() -> String) -> Cow<'_, str> {
        let (known, text) = self.told.get_or_init(|| (key.to_owned(), tell()));
        if known == key { Cow::Borrowed(text) } else { Cow::Owned(tell()) }
    }
}

impl Deref for Seen {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        &self.volume
    }
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.volume == other.volume
    }
}

/// A volume and its attachment.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockVolume {
    /// The drive, or a snapshot.
    pub volume: Arc<Seen>,
    /// Its attachment; a drive is attached to one server at a time.
    pub attachment: Option<Attachment>,
}

/// A volume without an attachment.
impl From<Volume> for BlockVolume {
    fn from(volume: Volume) -> Self {
        Self { volume: Seen::new(volume), attachment: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ByteCount, TenantId, UnixTime, VolumeKind, VolumeState};

    #[test]
    fn what_was_told_of_a_volume_is_told_again_for_the_same_question_only() {
        let (size, state) = (ByteCount::mib(1), VolumeState::Available);
        let volume = Volume::begun(TenantId::random(), VolumeKind::Drive, "a", size, state, UnixTime(1));
        let seen = Seen::new(volume);
        assert_eq!(seen.told("v2", || "two".to_owned()), "two");
        assert_eq!(seen.told("v2", || "another".to_owned()), "two");
        assert_eq!(seen.told("v3", || "three".to_owned()), "three");
    }
}
