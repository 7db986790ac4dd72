//! Name records: what a name points at, signed by its key (IPNS record, V1 and V2 in one).
//!
//! Invariant: what [`Record::verify`] gives back was signed by the key in the name, in the one form that we sign.
//! Nothing else of the bytes counts: around what is signed anybody can put anything, and nodes take it. On IPFS V2
//! counts (all fields), on BTFS V1 (value, end of life), as there is nothing else that its nodes check. Source:
//! specs.ipfs.tech/ipns/ipns-record. Called by `publish`, `mount`, the oracle and the name stores.
//!
//! The record, protobuf, at most 10 KiB. Of a field that stands twice the last one counts.
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

use crate::cid as form;
use crate::key::{NameKey, public_key};

/// The greatest record that is published, in bytes.
pub const MAX_RECORD_BYTES: usize = 10 << 10;
/// The greatest that is looked at. IPFS nodes give none above [`MAX_RECORD_BYTES`]; of BTFS nodes no bound is known but that
/// of a message between two nodes, and what anybody has put around a record must not hide it.
pub const MAX_GIVEN_BYTES: usize = 4 << 20;
/// The sequence of every BTNS record: BTFS nodes order records of one sequence by end of life,
/// and a forged sequence can then neither win nor block the name.
pub const BTNS_SEQUENCE: u64 = u64::MAX;
/// Renewals that fit under one commit's sequence.
const RENEWALS: u64 = 1 << 20;
/// What a V2 signature covers before the data.
const V2_PREFIX: &[u8] = b"ipns-signature:";

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
    /// Above what is published, or looked at: [`MAX_RECORD_BYTES`], [`MAX_GIVEN_BYTES`].
    #[error("record of {0} bytes is too long")]
    TooLong(usize),
    /// No record, or what is signed has another form than ours.
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

    /// The record in `bytes`, as far as the key of `name` signed it. Where a BTNS record has lost its V2 signature, its
    /// sequence is [`BTNS_SEQUENCE`], and its time to live 0. Its end of life may have passed: see
    /// [`Record::check_alive`].
    pub fn verify(name: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        let key = public_key(name).map_err(|e| RecordError::Name(e.to_string()))?;
        if bytes.len() > MAX_GIVEN_BYTES {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let signed = Signed::read(bytes)?;
        match (Self::by_v1(&key, &signed), Self::by_v2(&key, &signed)) {
            // Only a BTFS node takes a record whose two signatures are of different ones, and it goes by the first.
            (Ok(v1), v2) => Ok(v2.ok().filter(|v2| v1.is_part_of(v2)).unwrap_or(v1)),
            (Err(error), Ok(v2)) if v2.network == Network::Btfs => Err(error),
            (Err(_), v2) => v2,
        }
    }

    /// What the V1 signature covers of a BTNS record.
    fn by_v1(key: &VerifyingKey, signed: &Signed<'_>) -> Result<Self, RecordError> {
        let input = v1_input(signed.value, signed.validity);
        check(key, &input, signed.signature_v1, "V1")?;
        let (network, cid) = parse_value(signed.value)?;
        let record = Self {
            network,
            cid,
            sequence: BTNS_SEQUENCE,
            end_of_life: parse_validity(signed.validity)?,
            ttl_ns: 0,
        };
        let is_canonical = record.value() == signed.value && record.validity() == signed.validity;
        (is_canonical && network == Network::Btfs)
            .then_some(record)
            .ok_or_else(|| malformed("its V1 fields are not those of a BTNS record"))
    }

    /// What the V2 signature covers: all.
    fn by_v2(key: &VerifyingKey, signed: &Signed<'_>) -> Result<Self, RecordError> {
        let data = signed.data;
        check(key, &v2_input(data), signed.signature_v2, "V2")?;
        let record = Self::parse_data(data)?;
        (record.data() == data)
            .then_some(record)
            .ok_or_else(|| malformed("its data is not canonical"))
    }

    /// Whether all that V1 covers of this record is so in the other one, too.
    fn is_part_of(&self, other: &Self) -> bool {
        (self.network, self.cid, self.end_of_life) == (other.network, other.cid, other.end_of_life)
    }

    /// Whether a name is the same with the other one in this record's place, whatever anybody has put around it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.sequence == other.sequence && self.is_part_of(other)
    }

    /// Whether the record may still be used at `now_ns` (nanoseconds since 1970, UTC).
    pub fn check_alive(&self, now_ns: i64) -> Result<(), RecordError> {
        if self.end_of_life.as_nanosecond() > i128::from(now_ns) {
            Ok(())
        } else {
            Err(RecordError::Expired(self.end_of_life))
        }
    }

    /// Whether this record may take the place of `held`: a higher sequence, or the same one with a later end of life.
    /// An IPNS sequence is of one commit of one machine: of two that are made at one moment the first one stays, though
    /// nodes would take the other. BTNS records have all one sequence, so there that cannot be told.
    #[must_use]
    pub fn replaces(&self, held: &Self) -> bool {
        let both = (self.network, held.network);
        let is_another_commit = both == (Network::Ipfs, Network::Ipfs)
            && self.sequence == held.sequence
            && self.cid != held.cid;
        !is_another_commit && (self.sequence, self.end_of_life) > (held.sequence, held.end_of_life)
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
}

/// The protobuf of the table above, as it is written.
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

/// The fields of it that are signed, or sign, as they are read; empty where they are missing.
#[derive(Default)]
struct Signed<'a> {
    value: &'a [u8],
    signature_v1: &'a [u8],
    validity: &'a [u8],
    signature_v2: &'a [u8],
    data: &'a [u8],
}

impl<'a> Signed<'a> {
    /// As IPFS nodes read it: a field of another kind than it should be is one that is not known.
    fn read(mut bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (mut signed, mut groups) = (Self::default(), 0_usize);
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            match key & 7 {
                0 => drop(varint(&mut bytes)?),
                1 => drop(take(&mut bytes, 8)?),
                2 => {
                    let len = varint(&mut bytes)?;
                    let field = take(&mut bytes, len)?;
                    match key >> 3 {
                        _ if groups > 0 => {}
                        1 => signed.value = field,
                        2 => signed.signature_v1 = field,
                        4 => signed.validity = field,
                        8 => signed.signature_v2 = field,
                        9 => signed.data = field,
                        _ => {}
                    }
                }
                3 => groups += 1,
                4 => groups = groups.checked_sub(1).ok_or_else(not_protobuf)?,
                5 => drop(take(&mut bytes, 4)?),
                _ => return Err(not_protobuf()),
            }
        }
        match groups {
            0 => Ok(signed),
            _ => Err(not_protobuf()),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, RecordError> {
    let mut value = 0;
    for at in 0..10 {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(not_protobuf())
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8], RecordError> {
    let len = usize::try_from(len).map_err(|_| not_protobuf())?;
    let (taken, rest) = bytes.split_at_checked(len).ok_or_else(not_protobuf)?;
    *bytes = rest;
    Ok(taken)
}

fn not_protobuf() -> RecordError {
    malformed("it is no protobuf")
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
    signature: &[u8],
    version: &'static str,
) -> Result<(), RecordError> {
    let wrong = RecordError::Signature(version);
    let signature = Signature::from_slice(signature).map_err(|_| wrong.clone())?;
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
