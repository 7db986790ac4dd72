//! Name records: what a name points at, signed by its key (IPNS record, V1 and V2 in one).
//!
//! Invariant: what [`Record::verify`] gives back was signed by the key in the name, and re-encodes
//! to the very bytes that were verified, so nobody can vary a record without its key. BTFS nodes
//! check the V1 signature (value, end of life), IPFS nodes and we the V2 one (all fields). Source:
//! specs.ipfs.tech/ipns/ipns-record. Called by `publish`, `mount`, the oracle and the name stores.
//!
//! The record, protobuf, at most 10 KiB:
//!
//! | field | type | content |
//! |---|---|---|
//! | 1 | bytes | value: `/btfs/CID` or `/ipfs/CID` |
//! | 2 | bytes | V1: ed25519 over value ‖ end of life ‖ `EOL` |
//! | 3 | varint | kind of validity, 0 (end of life) |
//! | 4 | bytes | end of life, RFC 3339 with nanoseconds, UTC |
//! | 5 | varint | sequence |
//! | 6 | varint | time to live for caches, ns |
//! | 7 | bytes | public key as libp2p protobuf; left out by us, since it stands in the name |
//! | 8 | bytes | V2: ed25519 over `ipns-signature:` ‖ field 9 |
//! | 9 | bytes | DAG-CBOR map: `TTL`, `Value`, `Sequence`, `Validity`, `ValidityType` |

use std::fmt;

use cid::Cid;
use ed25519_dalek::{Signature, Signer, VerifyingKey};
use jiff::Timestamp;
use minicbor::{Decoder, Encoder};
use prost::Message;

use super::key::{NameKey, public_key};
use crate::pack::cid as form;

/// The greatest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 10 << 10;
/// The sequence of every BTNS record: BTFS nodes order records of one sequence by end of life,
/// and a forged sequence can then neither win nor block the name.
pub const BTNS_SEQUENCE: u64 = u64::MAX;
/// Renewals that fit under one commit's sequence.
const RENEWALS: u64 = 1 << 20;
/// What a V2 signature covers before the data.
const V2_PREFIX: &[u8] = b"ipns-signature:";
/// Protobuf of an ed25519 public key, before its 32 bytes.
const PUBLIC_KEY_PREFIX: [u8; 4] = [0x08, 0x01, 0x12, 0x20];

/// The network that a record's value names its content in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// `/btfs/`
    Btfs,
    /// `/ipfs/`
    Ipfs,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btfs => "/btfs/",
            Self::Ipfs => "/ipfs/",
        })
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Network of the value.
    pub network: Network,
    /// What the name points at.
    pub cid: Cid,
    /// Orders records of a name; see [`ipns_sequence`] and [`BTNS_SEQUENCE`].
    pub sequence: u64,
    /// Nodes drop the record after this instant.
    pub end_of_life: Timestamp,
    /// How long a cache may answer from it, in nanoseconds.
    pub ttl_ns: u64,
}

/// Why a record was refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// The name is not one of an ed25519 key.
    #[error("{0}")]
    Name(String),
    /// Above [`MAX_RECORD_BYTES`].
    #[error("record of {0} bytes is above {MAX_RECORD_BYTES}")]
    TooLong(usize),
    /// Not a record in its one form.
    #[error("record is malformed: {0}")]
    Form(String),
    /// A signature that the name's key did not make.
    #[error("record has a wrong {0} signature")]
    Signature(&'static str),
    /// Its end of life has passed.
    #[error("record ended at {0}")]
    Expired(Timestamp),
}

/// The IPNS sequence of the `renewal`-th record of commit `commit`: commit × 2^20 + renewal, so
/// that a renewal is newer than what it renews and older than the next commit. `None` when it does
/// not fit (nodes read it as a signed 64-bit number).
#[must_use]
pub fn ipns_sequence(commit: u64, renewal: u64) -> Option<u64> {
    (renewal < RENEWALS)
        .then(|| commit.checked_mul(RENEWALS)?.checked_add(renewal))
        .flatten()
        .filter(|sequence| i64::try_from(*sequence).is_ok())
}

/// The commit sequence that an IPNS sequence belongs to.
#[must_use]
pub fn commit_of_ipns_sequence(sequence: u64) -> u64 {
    sequence / RENEWALS
}

/// Which renewal of its commit an IPNS sequence is; 0 is the first record.
#[must_use]
pub fn renewal_of_ipns_sequence(sequence: u64) -> u64 {
    sequence % RENEWALS
}

impl Record {
    /// The record's bytes, signed by `key`: the same bytes for the same record and key.
    #[must_use]
    pub fn sign(&self, key: &NameKey) -> Vec<u8> {
        let key = key.signing_key();
        let (value, validity) = (self.value(), self.validity());
        let data = self.data();
        Envelope {
            signature_v1: Some(key.sign(&v1_input(&value, &validity)).to_vec()),
            signature_v2: Some(key.sign(&v2_input(&data)).to_vec()),
            value: Some(value),
            validity_kind: Some(0),
            validity: Some(validity),
            sequence: Some(self.sequence),
            ttl_ns: Some(self.ttl_ns),
            public_key: None,
            data: Some(data),
        }
        .encode_to_vec()
    }

    /// The record in `bytes`, if the key of `name` signed it and it has its one form: known fields
    /// in order, V1 and V2 copies equal, both signatures strict. Its end of life may have passed:
    /// see [`Record::check_alive`].
    pub fn verify(name: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        let key = public_key(name).map_err(|e| RecordError::Name(e.to_string()))?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let envelope = Envelope::decode(bytes).map_err(|e| malformed(e.to_string()))?;
        let data = envelope.data.as_deref().ok_or(missing("data"))?;
        check(&key, &v2_input(data), envelope.signature_v2.as_ref(), "V2")?;
        let record = Self::parse_data(data)?;
        if record.data() != data {
            return Err(malformed("its data is not canonical"));
        }
        record.check_copies(&envelope)?;
        let v1 = v1_input(&record.value(), &record.validity());
        check(&key, &v1, envelope.signature_v1.as_ref(), "V1")?;
        if let Some(copy) = &envelope.public_key
            && copy.strip_prefix(&PUBLIC_KEY_PREFIX) != Some(key.as_bytes())
        {
            return Err(malformed("its public key is not the name's"));
        }
        if envelope.encode_to_vec() != bytes {
            return Err(malformed("its bytes are not canonical"));
        }
        Ok(record)
    }

    /// Whether the record may still be used at `now_ns` (nanoseconds since 1970, UTC).
    pub fn check_alive(&self, now_ns: i64) -> Result<(), RecordError> {
        if self.end_of_life.as_nanosecond() > i128::from(now_ns) {
            Ok(())
        } else {
            Err(RecordError::Expired(self.end_of_life))
        }
    }

    /// Whether a node that holds `held` takes this record in its place: a higher sequence, or the
    /// same one with a later end of life.
    #[must_use]
    pub fn replaces(&self, held: &Self) -> bool {
        (self.sequence, self.end_of_life) > (held.sequence, held.end_of_life)
    }

    fn value(&self) -> Vec<u8> {
        format!("{}{}", self.network, self.cid).into_bytes()
    }

    fn validity(&self) -> Vec<u8> {
        format!("{:.9}", self.end_of_life).into_bytes()
    }

    /// The signed data: DAG-CBOR, keys by length, then bytewise.
    fn data(&self) -> Vec<u8> {
        let mut out = Encoder::new(Vec::new());
        // Writing into a vector cannot fail.
        let _: Result<(), minicbor::encode::Error<std::convert::Infallible>> = (|| {
            out.map(5)?;
            out.str("TTL")?.u64(self.ttl_ns)?;
            out.str("Value")?.bytes(&self.value())?;
            out.str("Sequence")?.u64(self.sequence)?;
            out.str("Validity")?.bytes(&self.validity())?;
            out.str("ValidityType")?.u64(0)?;
            Ok(())
        })();
        out.into_writer()
    }

    fn parse_data(data: &[u8]) -> Result<Self, RecordError> {
        let mut input = Decoder::new(data);
        if input.map().map_err(cbor)? != Some(5) {
            return Err(malformed("its data is not a map of 5"));
        }
        let ttl_ns = field(&mut input, "TTL")?.u64().map_err(cbor)?;
        let value = field(&mut input, "Value")?.bytes().map_err(cbor)?;
        let sequence = field(&mut input, "Sequence")?.u64().map_err(cbor)?;
        let validity = field(&mut input, "Validity")?.bytes().map_err(cbor)?;
        let kind = field(&mut input, "ValidityType")?.u64().map_err(cbor)?;
        if kind != 0 {
            return Err(malformed("its validity is not an end of life"));
        }
        let (network, cid) = parse_value(value)?;
        Ok(Self {
            network,
            cid,
            sequence,
            end_of_life: parse_validity(validity)?,
            ttl_ns,
        })
    }

    /// The fields outside the signed data must say what it says.
    fn check_copies(&self, envelope: &Envelope) -> Result<(), RecordError> {
        let same = envelope.value == Some(self.value())
            && envelope.validity_kind == Some(0)
            && envelope.validity == Some(self.validity())
            && envelope.sequence == Some(self.sequence)
            && envelope.ttl_ns == Some(self.ttl_ns);
        same.then_some(())
            .ok_or_else(|| malformed("its V1 fields differ from its data"))
    }
}

/// The protobuf of the table above.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(bytes = "vec", optional, tag = "1")]
    value: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    signature_v1: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "3")]
    validity_kind: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    validity: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "5")]
    sequence: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    ttl_ns: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "7")]
    public_key: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "8")]
    signature_v2: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "9")]
    data: Option<Vec<u8>>,
}

fn v1_input(value: &[u8], validity: &[u8]) -> Vec<u8> {
    [value, validity, b"EOL"].concat()
}

fn v2_input(data: &[u8]) -> Vec<u8> {
    [V2_PREFIX, data].concat()
}

/// Checks a signature strictly: malleated ones and keys of small order are refused.
fn check(
    key: &VerifyingKey,
    input: &[u8],
    signature: Option<&Vec<u8>>,
    version: &'static str,
) -> Result<(), RecordError> {
    let wrong = RecordError::Signature(version);
    let signature = signature
        .and_then(|s| Signature::from_slice(s).ok())
        .ok_or(wrong.clone())?;
    key.verify_strict(input, &signature).map_err(|_| wrong)
}

/// Steps over the next key of the map, which must be `name`.
fn field<'a, 'b>(
    input: &'a mut Decoder<'b>,
    name: &'static str,
) -> Result<&'a mut Decoder<'b>, RecordError> {
    if input.str().map_err(cbor)? == name {
        Ok(input)
    } else {
        Err(missing(name))
    }
}

fn parse_value(value: &[u8]) -> Result<(Network, Cid), RecordError> {
    let text = std::str::from_utf8(value).map_err(|_| malformed("its value is no text"))?;
    [Network::Btfs, Network::Ipfs]
        .into_iter()
        .find_map(|network| Some((network, text.strip_prefix(&network.to_string())?)))
        .and_then(|(network, cid)| Some((network, form::parse(cid).ok()?)))
        .ok_or_else(|| malformed("its value is neither /btfs/CID nor /ipfs/CID"))
}

fn parse_validity(validity: &[u8]) -> Result<Timestamp, RecordError> {
    std::str::from_utf8(validity)
        .ok()
        .filter(|text| text.len() <= 40)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed("its end of life is no time"))
}

fn cbor(e: minicbor::decode::Error) -> RecordError {
    malformed(format!("its data: {e}"))
}

fn missing(field: &'static str) -> RecordError {
    malformed(format!("{field} is missing"))
}

fn malformed(why: impl Into<String>) -> RecordError {
    RecordError::Form(why.into())
}

#[cfg(test)]
mod tests;
