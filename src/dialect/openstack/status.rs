//! The words for states, in both directions.

use crate::domain::{BackupState, ResetStatus, VolumeState};

/// The word for the state of every server: servers are another program's, which alone knows.
pub(super) const SERVER: &str = "UNKNOWN";

/// The word for the state of a volume.
pub(super) const fn volume(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Uploading | VolumeState::Creating | VolumeState::CloningTarget => "creating",
        VolumeState::Downloading => "downloading",
        VolumeState::Available => "available",
        VolumeState::Resizing => "extending",
        VolumeState::Attaching => "attaching",
        VolumeState::InUse => "in-use",
        VolumeState::Detaching => "detaching",
        VolumeState::Restoring => "restoring-backup",
        VolumeState::Unavailable => "error",
        VolumeState::ErrorAttaching => "error_attaching",
        VolumeState::ErrorDetaching => "error_detaching",
        VolumeState::ErrorRestoring => "error_restoring",
        VolumeState::Deleting => "deleting",
    }
}

/// The word for the state of a snapshot, which has fewer.
pub(super) const fn snapshot(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Uploading
        | VolumeState::Creating
        | VolumeState::CloningTarget
        | VolumeState::Downloading
        | VolumeState::Resizing
        | VolumeState::Restoring => "creating",
        VolumeState::Available | VolumeState::Attaching | VolumeState::InUse | VolumeState::Detaching => "available",
        VolumeState::Unavailable
        | VolumeState::ErrorAttaching
        | VolumeState::ErrorDetaching
        | VolumeState::ErrorRestoring => "error",
        VolumeState::Deleting => "deleting",
    }
}

/// The word for the state of a backup.
pub(super) const fn backup(state: BackupState) -> &'static str {
    match state {
        BackupState::Creating => "creating",
        BackupState::Available => "available",
        BackupState::Restoring => "restoring",
        BackupState::Deleting => "deleting",
        BackupState::Error => "error",
    }
}

/// The states that a table above spells with this word; none when it has no such word.
pub(super) fn states_named(word: &str, table: fn(VolumeState) -> &'static str) -> Vec<VolumeState> {
    VolumeState::ALL.into_iter().filter(|state| table(*state) == word).collect()
}

/// The state of a backup with this word.
pub(super) fn backup_named(word: &str) -> Option<BackupState> {
    use BackupState as S;
    [S::Creating, S::Available, S::Restoring, S::Deleting, S::Error].into_iter().find(|state| backup(*state) == word)
}

/// The state that an administrator wants a thing to have.
pub(super) fn reset_named(word: &str) -> Option<ResetStatus> {
    Some(match word {
        "available" => ResetStatus::Available,
        "error" => ResetStatus::Error,
        "in-use" => ResetStatus::InUse,
        "error_attaching" => ResetStatus::ErrorAttaching,
        "error_detaching" => ResetStatus::ErrorDetaching,
        "error_restoring" => ResetStatus::ErrorRestoring,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_found_by_the_word_that_it_is_told_with() {
        for state in VolumeState::ALL {
            assert!(states_named(volume(state), volume).contains(&state), "{state:?}");
            assert!(states_named(snapshot(state), snapshot).contains(&state), "{state:?}");
        }
        assert_eq!(states_named("in-use", volume), [VolumeState::InUse]);
        assert_eq!(states_named("nonsense", volume), []);
        assert_eq!(backup_named("restoring"), Some(BackupState::Restoring));
        assert_eq!(backup_named("error_restoring"), None);
    }

    #[test]
    fn a_status_that_can_be_set_is_one_that_is_told() {
        let words = ["available", "error", "in-use", "error_attaching", "error_detaching", "error_restoring"];
        for word in words {
            assert!(reset_named(word).is_some() && !states_named(word, volume).is_empty(), "{word}");
        }
        assert_eq!(reset_named("deleting"), None);
    }
}
