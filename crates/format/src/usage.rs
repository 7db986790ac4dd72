//! The usage metadata: the signed JSON document that a token's name points at.
//!
//! Invariant: one meaning has one sequence of bytes, and [`Usage::verify`] takes nothing else, so
//! that every reader, in whatever language, reads the same; what it gives back was signed by the
//! key. A signature proves who said it, not that it is true. Called by `publish` (sign), `mount`
//! and the oracle (verify). Golden documents, good and bad: `tests/golden/usage/`.
//!
//! The document is at most 4 KiB: exactly these keys in this order, without spaces, as in
//! `{"version":1,"chainId":137,…,"signature":"…"}`.
//!
//! | key | form |
//! |---|---|
//! | `version` | `1` |
//! | `chainId` | number |
//! | `contract` | string: `0x` and 40 hex digits, lower case |
//! | `tokenId` | string: decimal, below 2^256 |
//! | `epoch`, `quota`, `usage`, `uploads` | number; quota and usage in bytes |
//! | `cid` | `null`, or string: a CID of one of the two forms of [`super::cid`] |
//! | `root` | `null`, or string: a CIDv0 (`Qm…`) |
//! | `sequence` | number |
//! | `updated` | string: `YYYY-MM-DDTHH:MM:SSZ`, a second of UTC since 1970 that exists |
//! | `signature` | string: 128 hex digits, lower case |
//!
//! Numbers and decimals have no sign, no leading zero, no fraction, no exponent; numbers are at
//! most 2^53 − 1. The signature is ed25519 (strict) over `pxfs-usage-v1:` ‖ the document without its
//! last member, that is from `{` up to the comma before `"signature"`, and then `}`.

mod block;
mod parse;

pub use block::{block, block_named, document};

use std::fmt::Write;

use ::cid::Cid;
use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use jiff::SignedDuration;
use jiff::civil::DateTime;

use super::cid::{self as form, Kind};
use pxfs_base::types::VolumeKey;

/// The greatest document, in bytes.
pub const MAX_USAGE_BYTES: usize = 4 << 10;
/// The greatest number in a document: what JavaScript counts exactly.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;
/// Where seconds count from. (A civil time reaches the end of the year 9999, a timestamp does not.)
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// What the signature covers before the document.
const PREFIX: &[u8] = b"pxfs-usage-v1:";
/// What stands between the signed part and the signature, in place of the closing brace.
const SIGNATURE_KEY: &str = ",\"signature\":";

/// What a usage document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The token that it belongs to, and its epoch on chain.
    pub volume: VolumeKey,
    /// The token's size on chain when this was written, in bytes.
    pub quota: u64,
    /// Bytes stored now.
    pub usage: u64,
    /// Upload units used so far.
    pub uploads: u64,
    /// What the last commit uploaded, for others to read; `None` before the first.
    pub cid: Option<Cid>,
    /// The volume root, a CIDv0; `None` before the first commit.
    pub root: Option<Cid>,
    /// 0 for the first document of an epoch, then one more with every commit.
    pub sequence: u64,
    /// Time of the commit, in seconds since 1970 UTC.
    pub updated_s: u64,
}

/// Why a document was refused, or cannot be written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum UsageError {
    /// Above [`MAX_USAGE_BYTES`].
    #[error("usage metadata of {0} bytes is above {MAX_USAGE_BYTES}")]
    TooLong(usize),
    /// Another version of the document: it takes another pxfs to read it.
    #[error("usage metadata has version {0}, this pxfs reads version 1")]
    Version(u64),
    /// Not the closed form.
    #[error("usage metadata is malformed at byte {at}: expected {want}")]
    Form {
        /// Where, from 0.
        at: usize,
        /// What should stand there.
        want: &'static str,
    },
    /// A value that the form cannot carry.
    #[error("usage metadata cannot say this: {0}")]
    Value(&'static str),
    /// The block is a node that is no file of one block.
    #[error("{0} is no usage metadata: it is a node, and no file of one block")]
    Block(Cid),
    /// Not signed by the key, or not strictly.
    #[error("usage metadata is not signed by the token's name key")]
    Signature,
}

impl Usage {
    /// The document's bytes, signed by the name key; the same bytes for the same document and key.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, UsageError> {
        let mut text = self.signed_part()?;
        let signature = key.sign(&signing_input(&text));
        let signature = HEXLOWER.encode(&signature.to_bytes());
        let _ = write!(text, "{SIGNATURE_KEY}\"{signature}\"}}");
        Ok(text.into_bytes())
    }

    /// The document in `bytes`, if it has the closed form and `key` signed it.
    /// Whether it belongs to the right token and epoch, and is not older than one seen before, is
    /// the caller's to check.
    pub fn verify(bytes: &[u8], key: &VerifyingKey) -> Result<Self, UsageError> {
        let (usage, signed_part, signature) = parse::document(bytes)?;
        key.verify_strict(
            &signing_input(signed_part),
            &Signature::from_bytes(&signature),
        )
        .map_err(|_| UsageError::Signature)?;
        Ok(usage)
    }

    /// The document from `{` up to where `,"signature"` or `}` follows.
    fn signed_part(&self) -> Result<String, UsageError> {
        let token = &self.volume.token;
        let numbers = [
            token.chain_id,
            self.volume.epoch,
            self.quota,
            self.usage,
            self.uploads,
            self.sequence,
        ];
        if numbers.iter().any(|n| *n > MAX_NUMBER) {
            return Err(UsageError::Value("a number above 2^53 - 1"));
        }
        if self.cid.is_some_and(|cid| form::kind(&cid).is_err()) {
            return Err(UsageError::Value("a `cid` of another form"));
        }
        if self
            .root
            .is_some_and(|cid| form::kind(&cid) != Ok(Kind::Node))
        {
            return Err(UsageError::Value("a `root` that is no CIDv0"));
        }
        let updated = time_text(self.updated_s)
            .ok_or(UsageError::Value("an `updated` after the year 9999"))?;
        let mut text = String::with_capacity(1024);
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "{{\"version\":1,\"chainId\":{},\"contract\":\"0x{}\",\"tokenId\":\"{}\",\
             \"epoch\":{},\"quota\":{},\"usage\":{},\"uploads\":{},\"cid\":{},\"root\":{},\
             \"sequence\":{},\"updated\":\"{updated}\"",
            token.chain_id,
            HEXLOWER.encode(token.contract.as_slice()),
            token.token,
            self.volume.epoch,
            self.quota,
            self.usage,
            self.uploads,
            nullable(self.cid.as_ref()),
            nullable(self.root.as_ref()),
            self.sequence,
        );
        Ok(text)
    }
}

/// What is signed for a document whose signed part is `text`.
fn signing_input(text: &str) -> Vec<u8> {
    [PREFIX, text.as_bytes(), b"}"].concat()
}

/// A CID as a JSON string, or `null`.
fn nullable(cid: Option<&Cid>) -> String {
    cid.map_or_else(|| "null".to_owned(), |cid| format!("\"{cid}\""))
}

/// The one text of a second since 1970; `None` after the year 9999.
fn time_text(seconds: u64) -> Option<String> {
    let since = SignedDuration::from_secs(i64::try_from(seconds).ok()?);
    let time = EPOCH.checked_add(since).ok()?;
    Some(format!("{time}Z"))
}

#[cfg(test)]
mod tests;
