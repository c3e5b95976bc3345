//! Volumes as HPC-AI's API has them: each with a region and a type, and with a name that no other of them has.
//!
//! A volume of the type [`FILESYSTEM`] is a tree, of any other type a drive. Regions and types are what clients ask for
//! and are shown: neither changes where bytes are kept.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ByteCount, Fault, Secret, Volume, VolumeId, VolumeKind};

/// The type of volumes that are trees.
pub const FILESYSTEM: &str = "filesystem";

/// What this dialect knows of a volume beyond what every dialect does. Kept among its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HpcFields {
    /// The id of its region.
    pub region: String,
    /// Its type.
    pub volume_type: String,
    /// The name of the user who made it.
    pub user: String,
}

impl HpcFields {
    /// The attribute that holds them.
    pub const KEY: &str = "hpc_ai";

    /// Those of a volume with these attributes; none of what another dialect made.
    pub fn of(attributes: &Map<String, Value>) -> Option<Self> {
        attributes.get(Self::KEY).and_then(|fields| Self::deserialize(fields).ok())
    }

    /// Sets those of a volume.
    pub fn put(&self, attributes: &mut Map<String, Value>) {
        // Three strings: there is nothing that it could refuse.
        attributes.insert(Self::KEY.to_owned(), serde_json::to_value(self).unwrap_or_default());
    }
}

/// Metadata work on the caller's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HpcCommand {
    /// Makes one.
    Create(HpcSpec),
    /// Some of them, in order of making: those of other dialects too.
    List {
        /// Which page, from 1.
        page: u64,
        /// How many a page has.
        size: u32,
    },
    /// Removes one.
    Delete(VolumeId),
}

/// A volume to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HpcSpec {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: ByteCount,
    /// The id of a region.
    pub region: String,
    /// A type.
    pub volume_type: String,
}

impl HpcSpec {
    /// Whether it is to be a tree.
    pub fn is_tree(&self) -> bool {
        self.volume_type == FILESYSTEM
    }
}

/// A login that is answered with a signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HpcLogin {
    /// The name of the user.
    pub user: String,
    /// Their password.
    pub password: Secret,
}

/// A volume, with what its dialect shows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct HpcVolume {
    /// The volume.
    pub volume: Volume,
    /// What it was made with, or stands for that.
    pub fields: HpcFields,
}

/// What came of an [`HpcCommand`] or an [`HpcLogin`].
#[derive(Clone, Debug, PartialEq)]
pub enum HpcOutcome {
    /// A token was signed.
    LoggedIn {
        /// The token, told this once.
        token: Secret,
        /// For how long it is good.
        seconds: u32,
    },
    /// A volume was made.
    Made(Box<HpcVolume>),
    /// A page of volumes.
    Listed {
        /// The page.
        volumes: Vec<HpcVolume>,
        /// Which page was asked for.
        page: u64,
        /// How many a page has.
        size: u32,
        /// How many volumes there are in all.
        total: u64,
    },
    /// A volume was removed.
    Deleted,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HpcRegion {
    /// What clients name it by.
    pub id: String,
    /// What people call it.
    pub name: String,
}

/// Which regions and types there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HpcCatalogue {
    /// The regions; what no region was chosen for is shown in the first.
    pub regions: Vec<HpcRegion>,
    /// The types of drives; a drive that no type was chosen for is shown with the first.
    pub drive_types: Vec<String>,
}

impl HpcCatalogue {
    /// Whether a volume can be of this region and type.
    pub fn check(&self, spec: &HpcSpec) -> Result<(), Fault> {
        if !self.regions.iter().any(|region| region.id == spec.region) {
            let known: Vec<String> =
                self.regions.iter().map(|region| format!("{} ({})", region.id, region.name)).collect();
            return Err(Fault::invalid("region", format!("there is no such region; there is {}", known.join(", "))));
        }
        if !spec.is_tree() && !self.drive_types.contains(&spec.volume_type) {
            let known = self.drive_types.join(", ");
            let told = format!("there is no such volumeType; there is {FILESYSTEM}, {known}");
            return Err(Fault::invalid("volumeType", told));
        }
        Ok(())
    }

    /// A volume as it is shown to this user, who stands for its maker where that is not known.
    pub fn shown(&self, volume: Volume, user: &str) -> HpcVolume {
        let fields = HpcFields::of(&volume.attributes).unwrap_or_else(|| HpcFields {
            region: self.regions.first().map(|region| region.id.clone()).unwrap_or_default(),
            volume_type: match volume.kind {
                VolumeKind::Tree => FILESYSTEM.to_owned(),
                VolumeKind::Drive | VolumeKind::Snapshot => self.drive_types.first().cloned().unwrap_or_default(),
            },
            user: user.to_owned(),
        });
        HpcVolume { volume, fields }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DriveSpec, FaultKind, Media, TenantId, TreeSpec, UnixTime, VolumeState};

    fn catalogue() -> HpcCatalogue {
        let region = |id: &str| HpcRegion { id: id.to_owned(), name: format!("region {id}") };
        HpcCatalogue {
            regions: vec![region("r1"), region("r2")],
            drive_types: vec!["highspeedstorage".to_owned(), "slow".to_owned()],
        }
    }

    fn spec(region: &str, volume_type: &str) -> HpcSpec {
        let (region, volume_type) = (region.to_owned(), volume_type.to_owned());
        HpcSpec { name: "x".to_owned(), size: ByteCount::mib(1024), region, volume_type }
    }

    #[test]
    fn only_known_regions_and_types_are_taken_and_the_refusal_names_them() {
        for (region, volume_type) in [("r1", FILESYSTEM), ("r2", "highspeedstorage"), ("r1", "slow")] {
            assert!(catalogue().check(&spec(region, volume_type)).is_ok());
        }
        let fault = catalogue().check(&spec("R1", FILESYSTEM)).unwrap_err();
        assert_eq!((fault.kind, fault.point.as_deref()), (FaultKind::Invalid, Some("region")));
        assert!(fault.told.contains("r2 (region r2)"), "{fault}");
        let fault = catalogue().check(&spec("r1", "Filesystem")).unwrap_err();
        assert!(fault.told.contains("filesystem, highspeedstorage, slow"), "{fault}");
    }

    #[test]
    fn a_volume_is_shown_as_it_was_made_and_a_foreign_one_by_its_kind() {
        let drive = DriveSpec {
            name: "d".to_owned(),
            size: ByteCount::mib(1),
            media: Media::Disk,
            meta: Map::new(),
            attributes: Map::new(),
        };
        let mut drive = Volume::begun(TenantId::random(), drive, VolumeState::Available, UnixTime(0));
        let foreign = catalogue().shown(drive.clone(), "bob").fields;
        assert_eq!((&*foreign.region, &*foreign.volume_type, &*foreign.user), ("r1", "highspeedstorage", "bob"));
        let own = HpcFields { region: "r2".to_owned(), volume_type: "slow".to_owned(), user: "alice".to_owned() };
        own.put(&mut drive.attributes);
        assert_eq!(catalogue().shown(drive, "bob").fields, own);
        let tree = TreeSpec { name: "t".to_owned(), size: ByteCount::mib(1), labels: Map::new() };
        let tree = Volume::tree(TenantId::random(), tree, VolumeState::Available, UnixTime(0));
        assert_eq!(catalogue().shown(tree, "bob").fields.volume_type, FILESYSTEM);
    }
}
