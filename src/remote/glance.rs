//! Images of an image service (OpenStack Image API version 2), which are asked for with a user's own token.
//!
//! # Invariants
//! - Only what the service calls raw is taken, and taken as bytes: no format is looked for in them.
//! - An image ends without an error only when all its bytes came and have the digest that the service keeps.

use std::error::Error;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use md5::Md5;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256, Sha512};
use std::time::Duration;

use super::error::RemoteError;
use super::service::{Download, Service};
use crate::domain::{ByteCount, Secret, VolumeId};

/// How long a whole image may take.
const LONGEST: Duration = Duration::from_hours(24);

const AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// An image service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ImageService {
    service: Service,
}

/// Why an image is not described.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is none of this id.
    #[error("there is no such image")]
    NoSuchImage,
    /// The service does not take the token.
    #[error("the image service does not take this token")]
    Unauthenticated,
    /// The service takes the request for a wrong one.
    #[error("the image service answered 400 Bad Request")]
    Refused,
    /// The service answered with another status. One of 403 is of no caller's making: the document of version 2 of
    /// Block Storage has it as a failure.
    #[error("the image service answered {0}")]
    Status(StatusCode),
    /// The service cannot be asked.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The description cannot be read.
    #[error("the description of an image cannot be read")]
    Unreadable(#[from] serde_json::Error),
}

/// What an image service says of an image; what it leaves out is null to it.
#[derive(Debug, Deserialize)]
pub struct Image {
    status: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    disk_format: Option<String>,
    #[serde(default)]
    container_format: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    /// The least size of a volume of it, in GiB.
    #[serde(default)]
    pub min_disk: u64,
    #[serde(default)]
    os_hash_algo: Option<String>,
    #[serde(default)]
    os_hash_value: Option<String>,
    /// Its MD5, which is all that old images have.
    #[serde(default)]
    checksum: Option<String>,
}

/// An image that is being fetched, and digested on its way.
pub struct ImageDownload {
    opened: Download,
    left: u64,
    digest: Option<Expected>,
}

impl ImageService {
    /// The images of this service.
    pub const fn new(service: Service) -> Self {
        Self { service }
    }

    /// Asks for the description of an image.
    pub async fn image(&self, id: VolumeId, token: Option<&Secret>) -> Result<Image, ImageError> {
        let (path, headers) = (format!("v2/images/{id}"), fields_with(token));
        let said = self.service.ask(&Method::GET, &path, &headers, Bytes::new()).await?;
        match said.status {
            StatusCode::OK => Ok(serde_json::from_slice(&said.body)?),
            StatusCode::NOT_FOUND => Err(ImageError::NoSuchImage),
            StatusCode::BAD_REQUEST => Err(ImageError::Refused),
            StatusCode::UNAUTHORIZED => Err(ImageError::Unauthenticated),
            status => Err(ImageError::Status(status)),
        }
    }

    /// Requests the bytes of an image that can be taken.
    pub async fn download(
        &self,
        id: VolumeId,
        image: &Image,
        token: Option<&Secret>,
    ) -> Result<ImageDownload, Box<dyn Error + Send + Sync>> {
        let (length, digest) = image.check()?;
        let path = format!("v2/images/{id}/file");
        let opened = self.service.download(&path, &fields_with(token), length.get(), LONGEST).await?;
        Ok(ImageDownload { opened, left: length.get(), digest })
    }
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
    /// The length of an image that can be taken, or why it cannot.
    pub fn length(&self) -> Result<ByteCount, &'static str> {
        self.check().map(|(length, _)| length)
    }

    /// The length of an image that can be taken, and the digest that its bytes must have.
    fn check(&self) -> Result<(ByteCount, Option<Expected>), &'static str> {
        if self.status != "active" {
            return Err("it is not active");
        }
        let is_raw = self.disk_format.as_deref() == Some("raw");
        if !is_raw || !matches!(self.container_format.as_deref(), Some("bare") | None) {
            return Err("only raw images without a container are taken; others must be converted before");
        }
        let length = self.size.and_then(ByteCount::new).filter(|length| *length > ByteCount::ZERO);
        let length = length.ok_or("its size is not known")?;
        let digest = match (self.os_hash_algo.as_deref(), &self.os_hash_value) {
            (Some("sha512"), Some(value)) => {
                Some(Expected { hasher: Hasher::Sha512(Sha512::new()), hex: value.clone() })
            }
            (Some("sha256"), Some(value)) => {
                Some(Expected { hasher: Hasher::Sha256(Sha256::new()), hex: value.clone() })
            }
            (Some(_), Some(_)) => return Err("its digest is of a kind that is not known here"),
            // It finds accidents. Against forgery there is nothing in such an image to compare with.
            (None, _) | (_, None) => {
                let md5 = |value: &String| Expected { hasher: Hasher::Md5(Md5::new()), hex: value.clone() };
                self.checksum.as_ref().map(md5)
            }
        };
        Ok((length, digest))
    }

    /// What is known of it, by the names that the service has for that.
    pub fn facts(&self, id: VolumeId) -> Map<String, Value> {
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

impl ImageDownload {
    /// Returns the next bytes; `None` after the last one, and only if all came and have their digest. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Box<dyn Error + Send + Sync>> {
        let Some(chunk) = self.opened.next().await? else {
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

/// A digest that is made, and what it should be.
#[derive(Debug)]
struct Expected {
    hasher: Hasher,
    hex: String,
}

#[derive(Debug)]
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut expected = image.check().unwrap().1?;
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
        assert!(image(&[md5, ("os_hash_algo", "other"), wrong]).check().is_err());
    }
}
