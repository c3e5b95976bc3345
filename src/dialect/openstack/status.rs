//! The words for states, in both directions.

use crate::domain::{BackupState, BlockView, ResetStatus, Volume, VolumeState};

/// The word for the state of every server: servers are another program's, which alone knows.
pub(super) const SERVER: &str = "UNKNOWN";

/// The words that an administrator may set the status of a volume to: all that Cinder has for them, and two that are told
/// here.
const OF_VOLUMES: [&str; 24] = [
    "attaching",
    "available",
    "awaiting-transfer",
    "backing-up",
    "creating",
    "deleting",
    "detaching",
    "downloading",
    "error",
    "error_backing-up",
    "error_deleting",
    "error_extending",
    "error_managing",
    "error_restoring",
    "extending",
    "in-use",
    "maintenance",
    "managing",
    "reserved",
    "restoring-backup",
    "retyping",
    "uploading",
    "error_attaching",
    "error_detaching",
];

/// The same of a snapshot.
const OF_SNAPSHOTS: [&str; 10] = [
    "available",
    "backing-up",
    "creating",
    "deleted",
    "deleting",
    "error",
    "error_deleting",
    "restoring",
    "unmanaging",
    "updating",
];

/// The words that an administrator may set the migration of a volume to; `none` removes it.
const OF_MIGRATIONS: [&str; 6] = ["completing", "error", "migrating", "none", "starting", "success"];

/// The status of a volume: of one that was marked, the mark.
pub(super) fn of_volume(of: &Volume) -> &str {
    marked(of).unwrap_or(volume(of.state))
}

/// The status of a snapshot, likewise.
pub(super) fn of_snapshot(of: &Volume) -> &str {
    marked(of).unwrap_or(snapshot(of.state))
}

fn marked(of: &Volume) -> Option<&str> {
    BlockView::of(of).mark().filter(|_| of.state == VolumeState::Marked)
}

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
        VolumeState::Unavailable | VolumeState::Marked => "error",
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
        | VolumeState::ErrorRestoring
        | VolumeState::Marked => "error",
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
    let told = VolumeState::ALL.into_iter().filter(|state| *state != VolumeState::Marked);
    told.filter(|state| table(*state) == word).collect()
}

/// The mark that a volume can have for this status, if it is one of them.
pub(super) fn mark_of_volume(word: &str) -> Option<String> {
    matches!(reset_of_volume(word)?, ResetStatus::Marked(_) | ResetStatus::InUse { .. }).then(|| word.to_owned())
}

/// The mark that a snapshot can have for this status, likewise.
pub(super) fn mark_of_snapshot(word: &str) -> Option<String> {
    matches!(reset_of_snapshot(word)?, ResetStatus::Marked(_)).then(|| word.to_owned())
}

/// The state of a backup with this word.
pub(super) fn backup_named(word: &str) -> Option<BackupState> {
    use BackupState as S;
    [S::Creating, S::Available, S::Restoring, S::Deleting, S::Error].into_iter().find(|state| backup(*state) == word)
}

/// The state that an administrator wants a volume to have, if it is one of a volume.
pub(super) fn reset_of_volume(word: &str) -> Option<ResetStatus> {
    let word = OF_VOLUMES.into_iter().find(|known| *known == word)?;
    Some(match word {
        "available" => ResetStatus::Available,
        "error" => ResetStatus::Error,
        "attaching" => ResetStatus::Attaching,
        "in-use" => ResetStatus::InUse { is_ending: false, word: word.to_owned() },
        "detaching" => ResetStatus::InUse { is_ending: true, word: word.to_owned() },
        "error_attaching" => ResetStatus::ErrorAttaching,
        "error_detaching" => ResetStatus::ErrorDetaching,
        "error_restoring" => ResetStatus::ErrorRestoring,
        other => ResetStatus::Marked(other.to_owned()),
    })
}

/// The state that an administrator wants a snapshot to have, likewise.
pub(super) fn reset_of_snapshot(word: &str) -> Option<ResetStatus> {
    Some(match OF_SNAPSHOTS.into_iter().find(|known| *known == word)? {
        "available" => ResetStatus::Available,
        "error" => ResetStatus::Error,
        other => ResetStatus::Marked(other.to_owned()),
    })
}

/// The word for a migration that an administrator wants a volume to have, if it is one; empty for none.
pub(super) fn migration_named(word: &str) -> Option<String> {
    let word = OF_MIGRATIONS.into_iter().find(|known| *known == word)?;
    Some(if word == "none" { String::new() } else { word.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_found_by_the_word_that_it_is_told_with() {
        // One that is marked is found by its mark.
        for state in VolumeState::ALL.into_iter().filter(|state| *state != VolumeState::Marked) {
            assert!(states_named(volume(state), volume).contains(&state), "{state:?}");
            assert!(states_named(snapshot(state), snapshot).contains(&state), "{state:?}");
        }
        assert_eq!(states_named("in-use", volume), [VolumeState::InUse]);
        assert_eq!(states_named("nonsense", volume), []);
        assert_eq!(backup_named("restoring"), Some(BackupState::Restoring));
        assert_eq!(backup_named("error_restoring"), None);
    }

    #[test]
    fn a_status_that_can_be_set_is_told_by_its_own_word_alone() {
        for word in OF_VOLUMES {
            let is_marked = matches!(reset_of_volume(word), Some(ResetStatus::Marked(mark)) if mark == word);
            assert!(is_marked || !states_named(word, volume).is_empty(), "{word}");
            assert!(!is_marked || mark_of_volume(word).is_some(), "{word}");
        }
        for word in OF_SNAPSHOTS {
            assert!(mark_of_snapshot(word).is_some() || ["available", "error"].contains(&word), "{word}");
        }
        for (word, mark) in [("available", None), ("error", None), ("nonsense", None), ("in-use", Some("in-use"))] {
            assert_eq!(mark_of_volume(word).as_deref(), mark, "{word}");
        }
        assert_eq!((reset_of_volume("deleted"), reset_of_snapshot("in-use")), (None, None));
        assert_eq!((migration_named("none"), migration_named("x")), (Some(String::new()), None));
    }
}
