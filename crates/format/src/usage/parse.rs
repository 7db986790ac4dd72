//! The parser of the usage document: a cursor that knows what must come next.
//!
//! Invariant: takes the closed form and nothing else; never allocates by what the input says.

use alloy_primitives::Address;
use data_encoding::HEXLOWER;
use jiff::civil::DateTime;

use super::{EPOCH, MAX_NUMBER, MAX_USAGE_BYTES, SIGNATURE_KEY, Usage, UsageError, time_text};
use crate::cid::{self as form, Kind};
use pxfs_base::types::{TokenId, TokenKey, VolumeKey};

/// The document in `bytes`, the part of it that is signed, and the signature, not verified yet.
pub(super) fn document(bytes: &[u8]) -> Result<(Usage, &str, [u8; 64]), UsageError> {
    if bytes.len() > MAX_USAGE_BYTES {
        return Err(UsageError::TooLong(bytes.len()));
    }
    let plain = |b: &u8| (0x20..0x7f).contains(b) && *b != b'\\';
    let at = bytes.iter().take_while(|b| plain(b)).count();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if at == bytes.len() => text,
        _ => {
            let want = "printable ASCII without a backslash";
            return Err(UsageError::Form { at, want });
        }
    };
    let mut input = Cursor { text, at: 0 };
    input.literal("{\"version\":")?;
    match input.number()? {
        1 => {}
        other => return Err(UsageError::Version(other)),
    }
    input.literal(",\"chainId\":")?;
    let chain_id = input.number()?;
    input.literal(",\"contract\":")?;
    let contract = input.string("0x and 40 lower-case hex digits", contract)?;
    input.literal(",\"tokenId\":")?;
    let token = input.string("a decimal number below 2^256", token_id)?;
    input.literal(",\"epoch\":")?;
    let epoch = input.number()?;
    input.literal(",\"quota\":")?;
    let quota = input.number()?;
    input.literal(",\"usage\":")?;
    let used = input.number()?;
    input.literal(",\"uploads\":")?;
    let uploads = input.number()?;
    input.literal(",\"cid\":")?;
    let cid = input.nullable("null or a CID (Qm… or bafkrei…)", |text| {
        form::parse(text).ok()
    })?;
    input.literal(",\"root\":")?;
    let root = input.nullable("null or a CIDv0 (Qm…)", |text| {
        let cid = form::parse(text).ok()?;
        (form::kind(&cid) == Ok(Kind::Node)).then_some(cid)
    })?;
    input.literal(",\"sequence\":")?;
    let sequence = input.number()?;
    input.literal(",\"updated\":")?;
    let updated_s = input.string("a time like 2026-01-31T23:59:59Z", seconds)?;
    let signed = text.get(..input.at).unwrap_or_default();
    input.literal(SIGNATURE_KEY)?;
    let signature = input.string("128 lower-case hex digits", hex)?;
    input.literal("}")?;
    if input.at != text.len() {
        return Err(input.wrong("the end"));
    }
    let volume = VolumeKey {
        token: TokenKey {
            chain_id,
            contract,
            token,
        },
        epoch,
    };
    let usage = Usage {
        volume,
        quota,
        usage: used,
        uploads,
        cid,
        root,
        sequence,
        updated_s,
    };
    Ok((usage, signed, signature))
}

/// The text and how much of it was read.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// What is still to be read.
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The error that names this place.
    fn wrong(&self, want: &'static str) -> UsageError {
        UsageError::Form { at: self.at, want }
    }

    /// Steps over `literal`.
    fn literal(&mut self, literal: &'static str) -> Result<(), UsageError> {
        if !self.rest().starts_with(literal) {
            return Err(self.wrong(literal));
        }
        self.at += literal.len();
        Ok(())
    }

    /// A plain decimal number of at most 2^53 − 1.
    fn number(&mut self) -> Result<u64, UsageError> {
        let end = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let number = self
            .rest()
            .get(..end)
            .filter(|digits| is_plain_decimal(digits))
            .and_then(|digits| digits.parse().ok())
            .filter(|number| *number <= MAX_NUMBER)
            .ok_or_else(|| self.wrong("a plain whole number of at most 2^53 - 1"))?;
        self.at += end;
        Ok(number)
    }

    /// A string that `read` understands.
    fn string<T>(
        &mut self,
        want: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, UsageError> {
        let (value, length) = self
            .rest()
            .strip_prefix('"')
            .and_then(|rest| rest.split_once('"'))
            .and_then(|(text, _)| Some((read(text)?, text.len() + 2)))
            .ok_or_else(|| self.wrong(want))?;
        self.at += length;
        Ok(value)
    }

    /// `null`, or a string that `read` understands.
    fn nullable<T>(
        &mut self,
        want: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, UsageError> {
        if self.rest().starts_with("null") {
            self.at += 4;
            Ok(None)
        } else {
            self.string(want, read).map(Some)
        }
    }
}

/// Digits without a leading zero.
fn is_plain_decimal(text: &str) -> bool {
    text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()))
}

fn contract(text: &str) -> Option<Address> {
    hex(text.strip_prefix("0x")?).map(Address::new)
}

fn token_id(text: &str) -> Option<TokenId> {
    text.parse().ok().filter(|_| is_plain_decimal(text))
}

/// Exactly `N` bytes in lower-case hex.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let whole = text.len() == 2 * N && HEXLOWER.decode_mut(text.as_bytes(), &mut bytes) == Ok(N);
    whole.then_some(bytes)
}

/// The second that `text` is the one text of.
fn seconds(text: &str) -> Option<u64> {
    let time: DateTime = text.strip_suffix('Z')?.parse().ok()?;
    let seconds = u64::try_from(time.duration_since(EPOCH).as_secs()).ok()?;
    (time_text(seconds)? == text).then_some(seconds)
}
