//! Changes of volumes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{BlockFields, ByteCount, Fault, FaultKind, Media, Volume};

/// Changes to a volume or its copy; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// A new label.
    pub name: Option<String>,
    /// The device that the guest sees.
    pub media: Option<Media>,
    /// A change of the owner's labels.
    pub meta: Option<PairsChange>,
    /// Opaque fields to set; others stay.
    pub attributes: Map<String, Value>,
    /// A new size: starts a resize when it differs.
    pub size: Option<ByteCount>,
    /// Changes of the fields that only block storage has.
    pub block: BlockPatch,
}

/// Changes of the fields that only block storage has; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockPatch {
    /// The owner's description; an empty one removes it.
    pub description: Option<String>,
    /// A change of the properties of its image.
    pub image: Option<PairsChange>,
    /// Whether it is bootable.
    pub bootable: Option<bool>,
    /// Whether it may only be attached for reading. Refused while the volume is attached.
    pub read_only: Option<bool>,
}

/// A change of pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PairsChange {
    /// Sets these and keeps the others, up to the most pairs that block storage allows.
    Merge(Map<String, Value>),
    /// Sets these and removes the others.
    Replace(Map<String, Value>),
    /// Removes this one, which must exist.
    Remove(String),
}

impl Patch {
    /// Applies the changes to the record of a volume, but not the size, which a job changes.
    pub fn apply(self, volume: &mut Volume) -> Result<(), Fault> {
        let Self { name, media, meta, attributes, size: _, block } = self;
        if let Some(name) = name {
            volume.name = name;
        }
        volume.media = media.unwrap_or(volume.media);
        volume.attributes.extend(attributes);
        if let Some(meta) = meta {
            meta.apply(&mut volume.meta, "metadata")?;
        }
        block.apply(volume)
    }
}

impl BlockPatch {
    fn apply(self, volume: &mut Volume) -> Result<(), Fault> {
        // Else every change by another dialect would store the fields.
        if self == Self::default() {
            return Ok(());
        }
        let Self { description, image, bootable, read_only } = self;
        if read_only.is_some() && volume.state.is_attached() {
            return Err(Fault::new(FaultKind::Conflict, "the volume is attached"));
        }
        let mut fields = BlockFields::of(volume);
        if let Some(description) = description {
            fields.description = Some(description).filter(|text| !text.is_empty());
        }
        if let Some(image) = image {
            image.apply(&mut fields.image, "image metadata")?;
        }
        fields.bootable = bootable.unwrap_or(fields.bootable);
        fields.read_only = read_only.unwrap_or(fields.read_only);
        fields.put(&mut volume.attributes);
        Ok(())
    }
}

impl PairsChange {
    /// Applies the change; `what` names the pairs in a fault.
    fn apply(self, pairs: &mut Map<String, Value>, what: &str) -> Result<(), Fault> {
        match self {
            Self::Merge(more) => {
                pairs.extend(more);
                return BlockFields::check_pairs(pairs);
            }
            Self::Replace(all) => *pairs = all,
            Self::Remove(key) => {
                let told = || Fault::new(FaultKind::NotFound, format!("there is no such key among the {what}"));
                pairs.remove(&key).ok_or_else(told)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{TenantId, UnixTime, VolumeKind, VolumeState};

    fn drive(state: VolumeState) -> Volume {
        let mut drive =
            Volume::begun(TenantId::random(), VolumeKind::Drive, "a", ByteCount::mib(1), state, UnixTime(1));
        drive.meta = pairs(&["kept", "old"]);
        drive.attributes = Map::from_iter([("opaque".to_owned(), 1.into())]);
        drive
    }

    fn pairs(keys: &[&str]) -> Map<String, Value> {
        keys.iter().map(|key| ((*key).to_owned(), Value::from("x"))).collect()
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let before = drive(VolumeState::Available);
        let mut drive = before.clone();
        Patch::default().apply(&mut drive).unwrap();
        assert_eq!(drive, before, "no fields of block storage either");
        let block = BlockPatch { description: Some("d".to_owned()), bootable: Some(true), ..BlockPatch::default() };
        let size = Some(ByteCount::mib(9));
        Patch { name: Some("b".to_owned()), media: Some(Media::Cdrom), size, block, ..Patch::default() }
            .apply(&mut drive)
            .unwrap();
        assert_eq!((drive.name.as_str(), drive.media, drive.size), ("b", Media::Cdrom, before.size));
        assert_eq!((&drive.meta, drive.attributes.get("opaque")), (&before.meta, before.attributes.get("opaque")));
        let fields = BlockFields::of(&drive);
        assert_eq!((fields.description.as_deref(), fields.bootable, fields.read_only), (Some("d"), true, false));
        let cleared = BlockPatch { description: Some(String::new()), ..BlockPatch::default() };
        Patch { block: cleared, ..Patch::default() }.apply(&mut drive).unwrap();
        assert_eq!(BlockFields::of(&drive), BlockFields { description: None, ..fields });
    }

    #[test]
    fn pairs_are_merged_replaced_or_removed() {
        let changed = |change| {
            let mut drive = drive(VolumeState::Available);
            let outcome = Patch { meta: Some(change), ..Patch::default() }.apply(&mut drive);
            outcome.map(|()| drive.meta).map_err(|fault| fault.kind)
        };
        assert_eq!(changed(PairsChange::Merge(pairs(&["new"]))), Ok(pairs(&["kept", "new", "old"])));
        assert_eq!(changed(PairsChange::Replace(pairs(&["new"]))), Ok(pairs(&["new"])));
        assert_eq!(changed(PairsChange::Remove("old".to_owned())), Ok(pairs(&["kept"])));
        assert_eq!(changed(PairsChange::Remove("none".to_owned())), Err(FaultKind::NotFound));
        let many: Vec<String> = (0..127).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(changed(PairsChange::Merge(pairs(&many[1..]))).is_ok(), "128 of them");
        assert_eq!(changed(PairsChange::Merge(pairs(&many))), Err(FaultKind::Invalid));
    }

    #[test]
    fn an_attached_volume_stays_read_only_or_not() {
        let patch = |read_only| Patch { block: BlockPatch { read_only, ..BlockPatch::default() }, ..Patch::default() };
        let refused = patch(Some(true)).apply(&mut drive(VolumeState::InUse)).unwrap_err();
        assert_eq!(refused.kind, FaultKind::Conflict);
        let mut free = drive(VolumeState::Available);
        patch(Some(true)).apply(&mut free).unwrap();
        assert!(BlockFields::of(&free).read_only);
    }
}
