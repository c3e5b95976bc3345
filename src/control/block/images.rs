//! Volumes that are made of images of an image service (OpenStack Image API version 2).
//!
//! The image is fetched with the caller's own token, which is kept in memory alone: a fetch that a restart cuts off
//! ends in an error state.
//!
//! # Invariants
//! - Only what the service calls raw is taken, and taken as bytes: no format is looked for in them.
//! - A volume becomes available only when all bytes of the image came and have the digest that the service keeps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use md5::Md5;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256, Sha512};

use super::no_such_image;
use crate::control::Control;
use crate::control::upload::Failure;
use crate::domain::{
    BlockFields, BlockOutcome, BlockVolume, ByteCount, DriveSpec, Fault, FaultKind, Media, NewVolume, Principal,
    Reason, ReceivePlan, Secret, Seen, Volume, VolumeId, VolumeState,
};
use crate::remote::{Download, RemoteError, Service};
use crate::transfer::{Broken, ChunkSource, Chunks};

/// How long a whole image may take.
const LONGEST: Duration = Duration::from_hours(24);

const GIB: u64 = 1 << 30;

const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// What an image service says of an image; what it leaves out is null to it.
#[derive(Debug, Deserialize)]
struct Image {
    status: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    disk_format: Option<String>,
    #[serde(default)]
    container_format: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    /// In GiB.
    #[serde(default)]
    min_disk: u64,
    #[serde(default)]
    os_hash_algo: Option<String>,
    #[serde(default)]
    os_hash_value: Option<String>,
    /// Its MD5, which is all that old images have.
    #[serde(default)]
    checksum: Option<String>,
}

impl Control {
    /// Begins to fill a new volume from an image of the service.
    pub(super) async fn create_from_service(
        self: &Arc<Self>,
        glance: &Service,
        principal: &Principal,
        id: VolumeId,
        (wish, fields): (NewVolume, BlockFields),
    ) -> Result<BlockOutcome, Fault> {
        let headers = fields_with(wish.token.as_ref());
        let image = Image::ask(glance, id, &headers).await?;
        let (length, digest) = image.check(id)?;
        let least = least_size(length, image.min_disk)
            .ok_or_else(|| Fault::new(FaultKind::TooLarge, "the image asks for more than any volume has"))?;
        let size = wish.size.unwrap_or(least);
        if size < least {
            let told = format!("a volume of this image has {least} bytes or more");
            return Err(Fault::invalid("size", told).for_reason(Reason::SmallerThanImage(least)));
        }
        self.check_size(size)?;
        let mut attributes = Map::new();
        let facts = image.facts(id);
        BlockFields { bootable: true, image: facts, ..fields }.put(&mut attributes);
        let (name, meta) = (wish.name.unwrap_or_default(), wish.metadata);
        let spec = DriveSpec { name: name.clone(), size, media: Media::Disk, meta, attributes };
        let volume = Volume::begun(principal.tenant, spec, VolumeState::Downloading, self.parts.clock.now());
        let reservation = self.parts.store.space().reserve_for(principal.tenant, length)?;
        let plan = ReceivePlan { name, length: Some(length), expected: None, wants_sha256: false };
        let admitted = self.begin_filling(volume.clone(), plan, reservation, Failure::Spoil).await?;
        let glance = glance.clone();
        self.parts.tracker.spawn(async move {
            let path = format!("v2/images/{id}/file");
            let opened = glance.download(&path, &headers, length.get(), LONGEST).await;
            let image = ImageChunks { opened: Some(opened), left: length.get(), digest };
            // What fails is told by the volume's state and reason, and in the log.
            let _ = Box::pin(admitted.receive(&mut ChunkSource::from(image))).await;
        });
        Ok(BlockOutcome::Volume(Box::new(BlockVolume { volume: Seen::new(volume), attachment: None })))
    }
}

/// The least size of a volume of an image: whole GiB, and as many as the image asks for, which may be any number.
fn least_size(length: ByteCount, min_disk: u64) -> Option<ByteCount> {
    let least = length.get().max(min_disk.checked_mul(GIB)?);
    least.checked_next_multiple_of(GIB).and_then(ByteCount::new)
}

fn fields_with(token: Option<&Secret>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(mut value) = token.and_then(|token| HeaderValue::try_from(token.reveal()).ok()) {
        value.set_sensitive(true);
        headers.insert(AUTH_TOKEN, value);
    }
    headers
}

impl Image {
    async fn ask(glance: &Service, id: VolumeId, headers: &HeaderMap) -> Result<Self, Fault> {
        let said = glance.ask(&Method::GET, &format!("v2/images/{id}"), headers, Bytes::new()).await;
        let said = said.map_err(|error| unreachable(error.into()))?;
        match said.status {
            StatusCode::OK => serde_json::from_slice(&said.body).map_err(|error| unreachable(error.into())),
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Err(no_such_image(id)),
            StatusCode::UNAUTHORIZED => {
                Err(Fault::new(FaultKind::Unauthenticated, "the image service does not take this token"))
            }
            status => Err(unreachable(format!("the image service answered {status}").into())),
        }
    }

    /// The length of an image that can be taken, and the digest that its bytes must have.
    fn check(&self, id: VolumeId) -> Result<(ByteCount, Option<Expected>), Fault> {
        let refused = |why| {
            let told = format!("the image {id} cannot become a volume: {why}");
            Fault::invalid("image", told).for_reason(Reason::ImageUnfit(id, why))
        };
        if self.status != "active" {
            return Err(refused("it is not active"));
        }
        let is_raw = self.disk_format.as_deref() == Some("raw");
        if !is_raw || !matches!(self.container_format.as_deref(), Some("bare") | None) {
            return Err(refused("only raw images without a container are taken; others must be converted before"));
        }
        let length = self.size.and_then(ByteCount::new).filter(|length| *length > ByteCount::ZERO);
        let length = length.ok_or_else(|| refused("its size is not known"))?;
        let digest = match (self.os_hash_algo.as_deref(), &self.os_hash_value) {
            (Some("sha512"), Some(value)) => {
                Some(Expected { hasher: Hasher::Sha512(Sha512::new()), hex: value.clone() })
            }
            (Some("sha256"), Some(value)) => {
                Some(Expected { hasher: Hasher::Sha256(Sha256::new()), hex: value.clone() })
            }
            (Some(_), Some(_)) => return Err(refused("its digest is of a kind that is not known here")),
            // It finds accidents. Against forgery there is nothing in such an image to compare with.
            (None, _) | (_, None) => {
                let md5 = |value: &String| Expected { hasher: Hasher::Md5(Md5::new()), hex: value.clone() };
                self.checksum.as_ref().map(md5)
            }
        };
        Ok((length, digest))
    }

    fn facts(&self, id: VolumeId) -> Map<String, Value> {
        let text = |fact: &Option<String>| fact.clone().map_or(Value::Null, Value::from);
        let facts = [
            ("image_id", Value::from(id.to_string())),
            ("image_name", text(&self.name)),
            ("disk_format", text(&self.disk_format)),
            ("container_format", text(&self.container_format)),
            ("size", self.size.map_or(Value::Null, |size| size.to_string().into())),
            ("min_disk", self.min_disk.to_string().into()),
        ];
        facts.into_iter().filter(|(_, fact)| !fact.is_null()).map(|(key, fact)| (key.to_owned(), fact)).collect()
    }
}

fn unreachable(cause: Broken) -> Fault {
    Fault { told: "the image service cannot be used".to_owned(), ..Fault::internal(cause) }
}

/// A digest that is made, and what it should be.
struct Expected {
    hasher: Hasher,
    hex: String,
}

enum Hasher {
    Md5(Md5),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Expected {
    fn update(&mut self, bytes: &[u8]) {
        match &mut self.hasher {
            Hasher::Md5(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Whether the digest is what it should be.
    fn meets(self) -> bool {
        let digest = match self.hasher {
            Hasher::Md5(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha256(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha512(hasher) => hasher.finalize().to_vec(),
        };
        hex::encode(digest).eq_ignore_ascii_case(&self.hex)
    }
}

/// An image that is being fetched, and digested on its way.
struct ImageChunks {
    opened: Option<Result<Download, RemoteError>>,
    left: u64,
    digest: Option<Expected>,
}

impl Chunks for ImageChunks {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let download = match &mut self.opened {
            Some(Ok(download)) => download,
            Some(Err(_)) => match self.opened.take() {
                Some(Err(error)) => return Err(error.into()),
                _ => return Ok(None),
            },
            None => return Ok(None),
        };
        let Some(chunk) = download.next().await? else {
            self.opened = None;
            if self.left > 0 {
                return Err("the image is shorter than it should be".into());
            }
            if self.digest.take().is_some_and(|digest| !digest.meets()) {
                return Err("the image has another digest than it should have".into());
            }
            return Ok(None);
        };
        self.left = self.left.saturating_sub(chunk.len() as u64);
        if let Some(digest) = &mut self.digest {
            digest.update(&chunk);
        }
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_an_image_service_overflows_a_size() {
        let least = |length: u64, min_disk| least_size(ByteCount::new(length).unwrap(), min_disk).map(ByteCount::get);
        assert_eq!(least(1, 0), Some(GIB));
        assert_eq!(least(GIB + 1, 2), Some(2 * GIB));
        assert_eq!(least(1, 3), Some(3 * GIB));
        for min_disk in [1 << 33, (1 << 34) - 1, 1 << 34, 1 << 60, u64::MAX] {
            assert_eq!(least(1, min_disk), None, "{min_disk}");
        }
        assert_eq!(least(ByteCount::MAX.get(), 0), None);
    }

    fn image(more: &[(&str, &str)]) -> Image {
        let mut told = serde_json::json!({
            "status": "active", "disk_format": "raw", "container_format": "bare", "size": 3,
        });
        for (key, value) in more {
            told[key] = (*value).into();
        }
        serde_json::from_value(told).unwrap()
    }

    /// Whether `abc` is taken for the image; none when nothing is compared.
    fn meets(image: &Image) -> Option<bool> {
        let mut expected = image.check(VolumeId::random()).unwrap().1?;
        expected.update(b"ab");
        expected.update(b"c");
        Some(expected.meets())
    }

    #[test]
    fn whatever_digest_the_service_keeps_is_compared_and_an_md5_when_it_has_no_other() {
        let md5 = ("checksum", "900150983cd24fb0d6963f7d28e17f72");
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(meets(&image(&[])), None);
        assert_eq!(meets(&image(&[md5])), Some(true));
        assert_eq!(meets(&image(&[("checksum", "900150983cd24fb0d6963f7d28e17f73")])), Some(false));
        assert_eq!(meets(&image(&[md5, ("os_hash_algo", "sha256"), ("os_hash_value", sha256)])), Some(true));
        let wrong = ("os_hash_value", "00");
        assert_eq!(meets(&image(&[md5, ("os_hash_algo", "sha512"), wrong])), Some(false), "the better one counts");
        assert!(image(&[md5, ("os_hash_algo", "other"), wrong]).check(VolumeId::random()).is_err());
    }
}
