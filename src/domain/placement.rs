//! Placements: the region and type of a volume, as an API with regions requests and shows them.
//!
//! Neither decides where bytes are kept. The names of volumes that have a placement are unique.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Fault, Reason, Volume, VolumeKind};

/// The region and type of a volume. Stored among its attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The id of its region.
    pub region: String,
    /// Its type.
    pub volume_type: String,
    /// The name of the user who created it.
    pub user: String,
}

impl Placement {
    /// The attribute that holds it, named after the first API with regions: databases have that name.
    pub const KEY: &str = "hpc_ai";

    /// Returns the placement in the attributes of a volume; `None` if it was created without one.
    pub fn of(attributes: &Map<String, Value>) -> Option<Self> {
        attributes.get(Self::KEY).and_then(|placement| Self::deserialize(placement).ok())
    }

    /// Stores the placement in the attributes of a volume.
    pub fn put(&self, attributes: &mut Map<String, Value>) {
        // Three strings are always serialised.
        attributes.insert(Self::KEY.to_owned(), serde_json::to_value(self).unwrap_or_default());
    }
}

/// A region in the settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// The name in requests.
    pub id: String,
    /// The name for people.
    pub name: String,
}

/// The known regions and types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    /// The regions. A volume without one is shown in the first.
    pub regions: Vec<Region>,
    /// The types of drives. A drive without one is shown with the first.
    pub drive_types: Vec<String>,
}

impl Catalogue {
    /// Refuses an unknown region, and an unknown type of a drive. That of a tree is not checked, since APIs have a type
    /// of their own for trees.
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

    /// Gives a volume that was created without a placement one for display, with this user as its creator.
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
    use crate::domain::{ByteCount, FaultKind, TenantId, UnixTime, VolumeState};

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
        let (size, state) = (ByteCount::mib(1), VolumeState::Available);
        let drive = Volume::begun(TenantId::random(), VolumeKind::Drive, "d", size, state, UnixTime(0));
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
