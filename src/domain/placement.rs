//! Where a volume was wished to be, and of which type: what an API with regions asks for and shows.
//!
//! Neither changes where bytes are kept. Volumes that have a placement have names that no other of them has.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Fault, Reason, Volume, VolumeKind};

/// The region and type of a volume. Kept among its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The id of its region.
    pub region: String,
    /// Its type.
    pub volume_type: String,
    /// The name of the user who made it.
    pub user: String,
}

impl Placement {
    /// The attribute that holds it. Databases have it by the name of the first API with regions.
    pub const KEY: &str = "hpc_ai";

    /// That of a volume with these attributes; none of what was made without one.
    pub fn of(attributes: &Map<String, Value>) -> Option<Self> {
        attributes.get(Self::KEY).and_then(|placement| Self::deserialize(placement).ok())
    }

    /// Sets that of a volume.
    pub fn put(&self, attributes: &mut Map<String, Value>) {
        // Three strings: there is nothing that it could refuse.
        attributes.insert(Self::KEY.to_owned(), serde_json::to_value(self).unwrap_or_default());
    }
}

/// A region, as settings have it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// What clients name it by.
    pub id: String,
    /// What people call it.
    pub name: String,
}

/// Which regions and types there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    /// The regions; what no region was chosen for is shown in the first.
    pub regions: Vec<Region>,
    /// The types of drives; a drive that no type was chosen for is shown with the first.
    pub drive_types: Vec<String>,
}

impl Catalogue {
    /// Whether a volume of this kind can be placed so. A tree has whatever type its API has for trees.
    pub fn check(&self, kind: VolumeKind, placement: &Placement) -> Result<(), Fault> {
        if !self.regions.iter().any(|region| region.id == placement.region) {
            let known: Vec<String> =
                self.regions.iter().map(|region| format!("{} ({})", region.id, region.name)).collect();
            return Err(Fault::invalid("region", format!("there is no such region; there is {}", known.join(", "))));
        }
        if kind != VolumeKind::Tree && !self.drive_types.contains(&placement.volume_type) {
            let reason = Reason::NoSuchType { name: placement.volume_type.clone(), known: self.drive_types.clone() };
            return Err(Fault::invalid("volume_type", "there is no such type of drives").for_reason(reason));
        }
        Ok(())
    }

    /// Places a volume that was made without it, for whom it is shown to: this user stands for its maker.
    pub fn place(&self, volume: &mut Volume, user: &str) {
        if Placement::of(&volume.attributes).is_some() {
            return;
        }
        let placement = Placement {
            region: self.regions.first().map(|region| region.id.clone()).unwrap_or_default(),
            volume_type: match volume.kind {
                VolumeKind::Tree => String::new(),
                VolumeKind::Drive | VolumeKind::Snapshot => self.drive_types.first().cloned().unwrap_or_default(),
            },
            user: user.to_owned(),
        };
        placement.put(&mut volume.attributes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ByteCount, DriveSpec, FaultKind, Media, TenantId, UnixTime, VolumeState};

    fn catalogue() -> Catalogue {
        let region = |id: &str| Region { id: id.to_owned(), name: format!("region {id}") };
        Catalogue {
            regions: vec![region("r1"), region("r2")],
            drive_types: vec!["highspeedstorage".to_owned(), "slow".to_owned()],
        }
    }

    fn placement(region: &str, volume_type: &str) -> Placement {
        Placement { region: region.to_owned(), volume_type: volume_type.to_owned(), user: "alice".to_owned() }
    }

    #[test]
    fn only_known_regions_and_types_are_taken_and_the_refusal_names_them() {
        use VolumeKind::{Drive, Tree};
        for (kind, region, volume_type) in
            [(Tree, "r1", "any"), (Drive, "r2", "highspeedstorage"), (Drive, "r1", "slow")]
        {
            assert!(catalogue().check(kind, &placement(region, volume_type)).is_ok());
        }
        let fault = catalogue().check(Tree, &placement("R1", "any")).unwrap_err();
        assert_eq!((fault.kind, fault.point.as_deref()), (FaultKind::Invalid, Some("region")));
        assert!(fault.told.contains("r2 (region r2)"), "{fault}");
        let fault = catalogue().check(Drive, &placement("r1", "Slow")).unwrap_err();
        let known = vec!["highspeedstorage".to_owned(), "slow".to_owned()];
        assert_eq!(fault.reason.as_deref(), Some(&Reason::NoSuchType { name: "Slow".to_owned(), known }));
    }

    #[test]
    fn a_volume_is_shown_as_it_was_made_and_a_foreign_one_where_no_choice_was_made() {
        let drive = DriveSpec {
            name: "d".to_owned(),
            size: ByteCount::mib(1),
            media: Media::Disk,
            meta: Map::new(),
            attributes: Map::new(),
        };
        let drive = Volume::begun(TenantId::random(), drive, VolumeState::Available, UnixTime(0));
        let shown = |mut volume: Volume| {
            catalogue().place(&mut volume, "bob");
            Placement::of(&volume.attributes).unwrap()
        };
        assert_eq!(shown(drive.clone()), Placement { user: "bob".to_owned(), ..placement("r1", "highspeedstorage") });
        let mut own = drive;
        placement("r2", "slow").put(&mut own.attributes);
        assert_eq!(shown(own), placement("r2", "slow"));
    }
}
