//! Option values, as plain types with one text form each.
//!
//! Invariant: parsing never panics, and an error says what would be right.

use crate::rpc::host_only;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use alloy::primitives::utils::parse_ether;
use alloy::primitives::{Address, U256};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration: a number with `ms`, `s`, `m`, `h` or `d`; combinable (`1h30m`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is not a duration: say 30s, 10m, 12h or 31d");
        let mut rest = text;
        let mut sum = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| refused())?;
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            let millis = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(refused()),
            };
            let part = number.checked_mul(millis).ok_or_else(refused)?;
            sum = sum
                .checked_add(Duration::from_millis(part))
                .ok_or_else(refused)?;
            rest = tail;
        }
        if text.is_empty() {
            Err(refused())
        } else {
            Ok(Self(sum))
        }
    }
}

/// A number of bytes: `10GiB`, `500MB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| format!("`{text}` is not a size: say 10GiB, 500MiB or a number of bytes"))
    }
}

/// A chain's coins, in wei: `0.01`, `2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coins(pub U256);

impl FromStr for Coins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let any = text.bytes().any(|b| b.is_ascii_digit());
        let parsed = parse_ether(text).ok().filter(|_| plain && any);
        parsed
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not an amount of coins: say 0.01 or 2"))
    }
}

/// An account: `0x` and 40 hex digits; in mixed case with EIP-55's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account(pub Address);

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").unwrap_or_default();
        if digits.len() != 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!(
                "`{text}` is not an address: give 0x and 40 hex digits"
            ));
        }
        let has = |range: std::ops::RangeInclusive<u8>| digits.bytes().any(|b| range.contains(&b));
        let parsed = if has(b'a'..=b'f') && has(b'A'..=b'F') {
            Address::parse_checksummed(text, None).ok()
        } else {
            text.parse().ok()
        };
        parsed.map(Self).ok_or_else(|| {
            format!("`{text}` has a digit wrong, or one in the wrong case: copy the address again")
        })
    }
}

/// A chain endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcUrl {
    /// JSON-RPC over HTTP, or a WebSocket that announces changes; plain or TLS.
    Http(String),
    /// The chain in this folder, inside pxfs.
    Embedded(PathBuf),
}

impl FromStr for RpcUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(folder) = text
            .strip_prefix("embedded:")
            .filter(|rest| !rest.is_empty())
        {
            return Ok(Self::Embedded(PathBuf::from(folder)));
        }
        let schemes = ["http://", "https://", "ws://", "wss://"];
        if schemes.iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self::Http(text.to_owned()));
        }
        // Not repeated: it may hold a key.
        Err("a chain is https://…, http://…, wss://…, ws://… or embedded:FOLDER".to_owned())
    }
}

impl fmt::Display for RpcUrl {
    /// Scheme and host only: keys stand in paths and queries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&host_only(url)),
            Self::Embedded(folder) => write!(f, "embedded:{}", folder.display()),
        }
    }
}

/// An external signer: JSON-RPC over HTTP or HTTPS.
#[derive(Clone, PartialEq, Eq)]
pub struct SignerUrl(pub String);

impl fmt::Debug for SignerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&host_only(&self.0))
    }
}

impl FromStr for SignerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.starts_with("http://") || text.starts_with("https://") {
            true => Ok(Self(text.to_owned())),
            // Not repeated: it may hold a password.
            false => Err("a signer is http://… or https://…".to_owned()),
        }
    }
}

/// A storage node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeUrl {
    /// A BTFS node's RPC.
    Btfs(String),
    /// An IPFS node's RPC.
    Ipfs(String),
    /// The store in this folder, inside pxfs.
    Embedded(PathBuf),
    /// A gateway: read-only blocks by CID.
    Gateway(String),
}

impl FromStr for NodeUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = "a node is btfs=http://HOST:PORT, ipfs=http://HOST:PORT, embedded=FOLDER or gateway=https://HOST";
        let (kind, place) = text.split_once('=').ok_or(refused)?;
        let http = place.starts_with("http://") || place.starts_with("https://");
        match kind {
            "embedded" if !place.is_empty() => Ok(Self::Embedded(PathBuf::from(place))),
            "btfs" if http => Ok(Self::Btfs(place.to_owned())),
            "ipfs" if http => Ok(Self::Ipfs(place.to_owned())),
            "gateway" if http => Ok(Self::Gateway(place.to_owned())),
            _ => Err(refused.to_owned()),
        }
    }
}

impl NodeUrl {
    /// `btfs`, `ipfs`, `embedded` or `gateway`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Btfs(_) => "btfs",
            Self::Ipfs(_) => "ipfs",
            Self::Embedded(_) => "embedded",
            Self::Gateway(_) => "gateway",
        }
    }
}

impl Serialize for NodeUrl {
    /// The whole URL: only for the socket.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.kind();
        match self {
            Self::Btfs(url) | Self::Ipfs(url) | Self::Gateway(url) => {
                serializer.collect_str(&format_args!("{kind}={url}"))
            }
            Self::Embedded(folder) => match folder.to_str() {
                Some(folder) => serializer.collect_str(&format_args!("{kind}={folder}")),
                None => Err(S::Error::custom("the path of a folder that is not text")),
            },
        }
    }
}

impl fmt::Display for NodeUrl {
    /// Scheme and host only, or the folder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Btfs(url) | Self::Ipfs(url) | Self::Gateway(url) => f.write_str(&host_only(url)),
            Self::Embedded(folder) => write!(f, "embedded:{}", folder.display()),
        }
    }
}

/// Whether a new volume is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum VolumeKind {
    /// Nothing leaves the machine in the clear.
    Sealed,
    /// Content, names and attributes can be read by anybody.
    Plain,
}

impl FromStr for VolumeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sealed" => Ok(Self::Sealed),
            "plain" => Ok(Self::Plain),
            _ => Err(format!(
                "`{text}` is not a kind of volume: say sealed or plain"
            )),
        }
    }
}

impl VolumeKind {
    /// `sealed` or `plain`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Plain => "plain",
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is not a log format: say text or json")),
        }
    }
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl FromStr for Color {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(format!(
                "`{text}` is not a colour mode: say auto, always or never"
            )),
        }
    }
}

macro_rules! deserialize_from_text {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )+};
}
deserialize_from_text!(
    Span, Coins, Account, RpcUrl, NodeUrl, SignerUrl, VolumeKind, LogFormat, Color
);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Bytes(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Bytes(bytes) => Ok(Self(bytes)),
            Form::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}
