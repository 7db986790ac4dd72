//! The name records of the stand-in, by the rules of go-btns: the signature over value and end of
//! life is checked, the sequence is not signed, and orders the records all the same.

use std::fs;

use ed25519_dalek::{Signature, VerifyingKey};
use prost::Message;

use super::disk::Disk;

/// The fields that go-btns reads.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    value: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
    #[prost(uint64, tag = "3")]
    validity_kind: u64,
    #[prost(bytes = "vec", tag = "4")]
    validity: Vec<u8>,
    #[prost(uint64, tag = "5")]
    sequence: u64,
    #[prost(bytes = "vec", optional, tag = "7")]
    public_key: Option<Vec<u8>>,
}

impl Entry {
    /// The entry, if it is signed by `name`'s key and alive.
    fn read(name: &str, bytes: &[u8]) -> Option<Self> {
        let entry = Self::decode(bytes).ok()?;
        let key = key(name)?;
        // Left out, or the very one that the name has.
        let told = entry.public_key.as_ref().filter(|told| !told.is_empty());
        let own = [&[8, 1, 0x12, 0x20], &key.to_bytes()[..]].concat();
        if told.is_some_and(|told| *told != own) {
            return None;
        }
        let signed = [&entry.value[..], &entry.validity, b"EOL"].concat();
        let signature = Signature::from_slice(&entry.signature).ok()?;
        key.verify_strict(&signed, &signature).ok()?;
        let alive = entry.end()? > jiff::Timestamp::now();
        (entry.validity_kind == 0 && alive).then_some(entry)
    }

    fn end(&self) -> Option<jiff::Timestamp> {
        std::str::from_utf8(&self.validity).ok()?.parse().ok()
    }
}

/// The ed25519 key in a name: base36 of CIDv1, libp2p-key, identity.
fn key(name: &str) -> Option<VerifyingKey> {
    let cid: cid::Cid = name.parse().ok()?;
    let key = cid.hash().digest().strip_prefix(&[8, 1, 0x12, 0x20])?;
    VerifyingKey::from_bytes(key.try_into().ok()?).ok()
}

/// Stores a record; `None` for a key that is none, else whether it was taken.
pub(super) fn put(disk: &Disk, route: &str, bytes: &[u8]) -> Option<bool> {
    let name = route
        .strip_prefix("/btns/")
        .filter(|name| key(name).is_some())?;
    let file = disk.folder().join("names").join(name);
    let Some(new) = Entry::read(name, bytes) else {
        return Some(false);
    };
    let held = fs::read(&file).ok();
    let held = held.and_then(|bytes| Entry::read(name, &bytes));
    let wins = held.is_none_or(|held| (new.sequence, new.end()) >= (held.sequence, held.end()));
    if wins {
        disk.write(&file, bytes);
    }
    Some(wins)
}

/// The record under a key; `None` for a key that is none.
pub(super) fn get(disk: &Disk, route: &str) -> Option<Option<Vec<u8>>> {
    let name = route
        .strip_prefix("/btns/")
        .filter(|name| key(name).is_some())?;
    let bytes = fs::read(disk.folder().join("names").join(name)).ok();
    Some(bytes.filter(|bytes| Entry::read(name, bytes).is_some()))
}

/// What a name points at: `/btfs/CID`.
pub(super) fn resolve(disk: &Disk, name: &str) -> Option<String> {
    let bytes = get(disk, &format!("/btns/{name}"))??;
    String::from_utf8(Entry::read(name, &bytes)?.value).ok()
}
