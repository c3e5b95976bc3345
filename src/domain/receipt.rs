//! Receipts: what is stored, told so that it can be shown to others and checked without this server.

use serde::{Deserialize, Serialize};

use super::{Algorithms, ByteCount, Digests, TenantId, TransferId, VolumeId};

/// The drive that a receipt is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiptOf {
    /// The one with this id.
    Drive(VolumeId),
    /// The one that this transfer has made.
    Transfer(TransferId),
}

/// What is stored of a drive. Its JSON is what is signed; times are as in RFC 3339.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Who says so.
    pub issuer: String,
    /// When it was issued.
    pub issued: String,
    /// The drive.
    pub drive: VolumeId,
    /// The label of the drive.
    pub name: String,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The user who made it, if that is known.
    pub user: Option<String>,
    /// The transfer that brought it, as far as that is on record.
    pub transfer: Option<TransferId>,
    /// Its exact size.
    pub size: ByteCount,
    /// The bytes that it takes on the disk, if that is known: its holes take none.
    pub allocated: Option<u64>,
    /// The digests of all its bytes.
    pub digest: ReceiptDigests,
    /// When it was created.
    pub created: String,
    /// When its bytes were stored, if that is known.
    pub stored: Option<String>,
    /// When they were last read back from the disk and found whole, if ever. Older receipts do not tell it.
    #[serde(default)]
    pub checked: Option<String>,
    /// When that reading began, if that is known: each byte was on the disk then or later.
    #[serde(default)]
    pub checked_from: Option<String>,
}

/// Digests in hexadecimal; `None` of those that are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptDigests {
    /// The SHA-256.
    #[serde(rename = "sha-256")]
    pub sha256: Option<String>,
    /// The BLAKE3.
    pub blake3: Option<String>,
    /// The BLAKE3 of the list of pieces. Receipts of older versions have none.
    #[serde(rename = "blake3-pieces", default)]
    pub pieces: Option<String>,
}

impl ReceiptDigests {
    /// The algorithms by which there is one.
    pub const fn algorithms(&self) -> Algorithms {
        Algorithms { sha256: self.sha256.is_some(), blake3: self.blake3.is_some(), pieces: self.pieces.is_some() }
    }
}

impl From<Digests> for ReceiptDigests {
    fn from(digests: Digests) -> Self {
        Self {
            sha256: digests.sha256.map(|digest| hex::encode(digest.0)),
            blake3: digests.blake3.map(|digest| hex::encode(digest.0)),
            pieces: digests.pieces.map(|digest| hex::encode(digest.0)),
        }
    }
}

/// A receipt with its signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// What is stored.
    pub receipt: Receipt,
    /// The same, signed: a compact JWS (RFC 7515) by Ed25519 (RFC 8037).
    pub jws: String,
}

/// A key that checks receipts, as a JSON Web Key (RFC 7517, RFC 8037).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// The type of key, `OKP`.
    pub kty: String,
    /// The curve, `Ed25519`.
    pub crv: String,
    /// The name that signatures give it.
    pub kid: String,
    /// Its 32 bytes in base64url.
    pub x: String,
}
