//! The anchor of a `px-v2` token: the root its owner published last, stored on the contract beside
//! the token (`addExtraContent`), so that a tree is found after its name record is gone, and none
//! is rolled back.
//!
//! Form: JSON in one line, `{"owner":"0x…","name":"k51…","sequence":5,"root":"Qm…"}`, under the key
//! [`KEY`]. Invariant: it counts only for the owner and the name in it, so a buyer does not take
//! its tree for the own one.

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use pxfs_format::cid::{self as form, Kind};

/// Its key on the contract.
pub const KEY: &str = "pxfs";
/// The longest text that can be an anchor, bytes.
const LONGEST: usize = 300;
/// The highest sequence: what a name record can hold, with room for renewals.
const LAST: u64 = (1 << 44) - 2;

/// What was published last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The owner then.
    pub owner: Address,
    /// The name it is published under.
    pub name: String,
    /// Its sequence.
    pub sequence: u64,
    /// Digest of its root.
    pub root: B256,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    owner: Address,
    name: String,
    sequence: u64,
    root: String,
}

impl Anchor {
    /// `None` if `text` is no anchor, whoever wrote it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let written: Written = serde_json::from_str(text).ok()?;
        // The one form of a name, as clients of name-keeping contracts check it.
        let is_name = written.name.len() == 62
            && written.name.starts_with("k51")
            && written.name.bytes().all(|b| b.is_ascii_alphanumeric());
        let root = form::parse(&written.root).ok()?;
        let is_root = form::kind(&root) == Ok(Kind::Node);
        let digest = form::digest(&root).ok()?.into();
        let is_sequence = written.sequence <= LAST;
        (is_name && is_root && is_sequence).then_some(Self {
            owner: written.owner,
            name: written.name,
            sequence: written.sequence,
            root: digest,
        })
    }

    /// Its stored text, below 300 bytes.
    #[must_use]
    pub fn to_text(&self) -> String {
        let written = Written {
            owner: self.owner,
            name: self.name.clone(),
            sequence: self.sequence,
            root: form::node_of_digest(self.root.0).to_string(),
        };
        serde_json::to_string(&written).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_found_again_by_every_later_version() {
        let golden = include_str!("../../../tests/golden/state/anchor.json");
        let anchor = Anchor {
            owner: Address::repeat_byte(7),
            name: format!("k51{}", "a".repeat(59)),
            sequence: 300,
            root: B256::repeat_byte(9),
        };
        assert_eq!(anchor.to_text(), golden.trim_end());
        assert!(golden.len() < LONGEST);
        assert_eq!(Anchor::parse(golden.trim_end()), Some(anchor));
    }

    /// Others store texts there too, and the owner may write any.
    #[test]
    fn what_is_no_anchor_is_none() {
        let golden = include_str!("../../../tests/golden/state/anchor.json").trim_end();
        for text in [
            "",
            "{}",
            "null",
            r#"{"cid":"QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"}"#,
            &golden.replace("k51", "k52"),
            &golden.replace("Qm", "Qn"),
            &golden.replace("300", "-1"),
            &golden.replace("300", "18446744073709551615"),
            &golden.replace('}', r#","more":1}"#),
            &golden.replace("k51", &format!("k51{}", "a".repeat(300))),
        ] {
            assert_eq!(Anchor::parse(text), None, "{text}");
        }
    }
}
