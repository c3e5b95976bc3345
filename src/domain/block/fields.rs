//! Properties of a volume that only block storage has.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[cfg(doc)]
use crate::domain::VolumeState;
use crate::domain::{Fault, TenantId, Volume, VolumeKind};

/// Properties of a drive or snapshot that only block storage has. They are stored among its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties, each with a name")]
pub struct BlockFields {
    /// The owner's description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The availability zone; absent is the server's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The name of its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// In a wish only: whether the type is the default one when none has that name or id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub type_if_known: bool,
    /// The id of the user who created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The snapshot that it was created from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The volume that it was created from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Properties of the image that it was created from, by the names of the image service: `image_id`, `image_name`
    /// and others.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub image: Map<String, Value>,
    /// Whether it is bootable.
    pub bootable: bool,
    /// Whether it may only be attached for reading.
    pub read_only: bool,
    /// The word that an administrator has marked it with; of a volume that is [`VolumeState::Marked`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// The word for a migration that an administrator has set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
    /// Whether it is an image for every tenant, which an operator sets.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub public_image: bool,
}

impl BlockFields {
    /// The owner's label, key and value, that makes a drive an image for their tenant.
    pub const IMAGE: (&str, &str) = ("image", "private");

    /// The zone of volumes that were created without one.
    pub const ZONE: &str = "nova";

    /// The most pairs of the owner, and of an image: the quota of OpenStack Block Storage.
    const MOST_PAIRS: usize = 128;

    /// The key of the attribute.
    const KEY: &str = "block";

    /// Returns the fields of a volume; the defaults of one that another dialect created.
    pub fn of(volume: &Volume) -> Self {
        Self::among(&volume.attributes)
    }

    /// Returns the fields that are stored among attributes of a volume, likewise.
    pub fn among(attributes: &Map<String, Value>) -> Self {
        let fields = attributes.get(Self::KEY);
        fields.and_then(|fields| Self::deserialize(fields).ok()).unwrap_or_default()
    }

    /// Whether a drive is an image for this tenant.
    pub fn is_image_for(volume: &Volume, tenant: TenantId) -> bool {
        (BlockView::is_private_image(volume) && volume.tenant == tenant) || BlockView::of(volume).is_public_image()
    }

    /// Refuses more pairs than a volume may have.
    pub fn check_pairs(pairs: &Map<String, Value>) -> Result<(), Fault> {
        let most = Self::MOST_PAIRS;
        if pairs.len() > most {
            return Err(Fault::invalid("metadata", format!("there are more than {most} metadata items")));
        }
        Ok(())
    }

    /// Stores the fields among the attributes of a volume.
    pub fn put(&self, attributes: &mut Map<String, Value>) {
        // Strings, booleans and a map of JSON always have a JSON form.
        attributes.insert(Self::KEY.to_owned(), serde_json::to_value(self).unwrap_or_default());
    }
}

/// The [`BlockFields`] of a volume, read in place: answers with many volumes copy nothing.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a>(Option<&'a Map<String, Value>>);

impl<'a> BlockView<'a> {
    /// Returns the fields of a volume.
    pub fn of(volume: &'a Volume) -> Self {
        Self(volume.attributes.get(BlockFields::KEY).and_then(Value::as_object))
    }

    /// Whether a volume is an image, for its tenant or for everybody.
    pub fn is_image(volume: &Volume) -> bool {
        volume.kind == VolumeKind::Drive && (Self::is_private_image(volume) || BlockView::of(volume).is_public_image())
    }

    /// Whether the owner has labelled it as an image.
    fn is_private_image(volume: &Volume) -> bool {
        let (key, value) = BlockFields::IMAGE;
        volume.meta.get(key).is_some_and(|mark| mark == value)
    }

    /// [`BlockFields::public_image`].
    fn is_public_image(self) -> bool {
        self.field("public_image").and_then(Value::as_bool).unwrap_or(false)
    }

    fn field(self, name: &str) -> Option<&'a Value> {
        self.0.and_then(|fields| fields.get(name))
    }

    fn text(self, name: &str) -> Option<&'a str> {
        self.field(name).and_then(Value::as_str)
    }

    /// [`BlockFields::description`].
    pub fn description(self) -> Option<&'a str> {
        self.text("description")
    }

    /// [`BlockFields::zone`].
    pub fn zone(self) -> Option<&'a str> {
        self.text("zone")
    }

    /// [`BlockFields::volume_type`].
    pub fn volume_type(self) -> Option<&'a str> {
        self.text("volume_type")
    }

    /// [`BlockFields::user`].
    pub fn user(self) -> Option<&'a str> {
        self.text("user")
    }

    /// [`BlockFields::snapshot`].
    pub fn snapshot(self) -> Option<&'a str> {
        self.text("snapshot")
    }

    /// [`BlockFields::volume`].
    pub fn volume(self) -> Option<&'a str> {
        self.text("volume")
    }

    /// [`BlockFields::mark`].
    pub fn mark(self) -> Option<&'a str> {
        self.text("mark")
    }

    /// [`BlockFields::migration`].
    pub fn migration(self) -> Option<&'a str> {
        self.text("migration")
    }

    /// [`BlockFields::image`]; absent when empty.
    pub fn image(self) -> Option<&'a Map<String, Value>> {
        self.field("image").and_then(Value::as_object)
    }

    /// [`BlockFields::bootable`].
    pub fn is_bootable(self) -> bool {
        self.field("bootable").is_some_and(|flag| *flag == Value::Bool(true))
    }

    /// [`BlockFields::read_only`].
    pub fn is_read_only(self) -> bool {
        self.field("read_only").is_some_and(|flag| *flag == Value::Bool(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ByteCount, UnixTime, VolumeState};

    fn volume(attributes: Map<String, Value>) -> Volume {
        let (size, state) = (ByteCount::mib(1), VolumeState::Available);
        let volume = Volume::begun(TenantId::random(), VolumeKind::Drive, "a", size, state, UnixTime(1));
        Volume { attributes, ..volume }
    }

    #[test]
    fn fields_are_read_where_they_are_kept_as_they_are_when_taken_out() {
        let text = |text: &str| Some(text.to_owned());
        let fields = BlockFields {
            description: text("d"),
            zone: text("z"),
            volume_type: text("t"),
            user: text("u"),
            snapshot: text("s"),
            volume: text("v"),
            mark: text("m"),
            migration: text("n"),
            image: Map::from_iter([("image_id".to_owned(), "i".into())]),
            bootable: true,
            ..BlockFields::default()
        };
        for fields in [fields, BlockFields::default()] {
            let mut attributes = Map::new();
            fields.put(&mut attributes);
            let volume = volume(attributes);
            let view = BlockView::of(&volume);
            let read = BlockFields {
                description: view.description().map(str::to_owned),
                zone: view.zone().map(str::to_owned),
                volume_type: view.volume_type().map(str::to_owned),
                user: view.user().map(str::to_owned),
                snapshot: view.snapshot().map(str::to_owned),
                volume: view.volume().map(str::to_owned),
                mark: view.mark().map(str::to_owned),
                migration: view.migration().map(str::to_owned),
                image: view.image().cloned().unwrap_or_default(),
                bootable: view.is_bootable(),
                ..BlockFields::default()
            };
            assert_eq!(read, fields);
        }
    }
}
