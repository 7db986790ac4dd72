//! Name keys: the ed25519 keys that own names, where they come from, and their text.
//!
//! Invariant: a secret key is zeroized when it is dropped and never printed; a name has one text.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use alloy_primitives::Address;
use cid::multibase::{self, Base};
use data_encoding::HEXLOWER;
use ed25519_dalek::{SigningKey, VerifyingKey};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Salt of every key that is derived from the wallet.
const SALT: &[u8] = b"pxfs v1";
/// Purpose of the name key that a transaction sets on chain; its index is that transaction's nonce.
const PURPOSE: &[u8] = b"name";
/// CIDv1, libp2p-key, identity multihash of 36 bytes, libp2p protobuf: ed25519, 32 bytes of key.
const NAME_PREFIX: [u8; 8] = [0x01, 0x72, 0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
/// Purpose of the name key of a token on a contract that keeps none; its index is the token.
const TOKEN_PURPOSE: &[u8] = b"token name";
/// The most indices that a search derives, whatever a chain says of the wallet's nonce: 30 s of work.
const MOST_INDICES: u64 = 1 << 20;
/// Length of a name's text: `k51` and 59 more characters of base36.
const NAME_CHARS: usize = 62;

/// A key that owns a name. Redacted when printed, zeroized when dropped.
#[derive(Clone)]
pub struct NameKey(SigningKey);

impl NameKey {
    /// The key of this seed (RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key of a seed of 64 lower-case hex digits; `None` for any other text.
    #[must_use]
    pub fn from_hex(digits: &[u8]) -> Option<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        let is_whole = digits.len() == 64 && HEXLOWER.decode_mut(digits, seed.as_mut()) == Ok(32);
        is_whole.then(|| Self::from_seed(&seed))
    }

    /// A new random key.
    ///
    /// # Panics
    /// The system gives no random bytes.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn random() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).expect("random bytes");
        Self::from_seed(&seed)
    }

    /// The name key that the wallet with private key `secret` sets on `contract` in its
    /// transaction with the account nonce `index`.
    ///
    /// Seed = HKDF-SHA-256(ikm = `secret`, salt = `pxfs v1`, info, 32 bytes), where info is
    ///
    /// | bytes | content |
    /// |---|---|
    /// | 4 | purpose, `name` |
    /// | 1 | 0x00 |
    /// | 8 | chain id, big endian |
    /// | 20 | contract |
    /// | 8 | index, big endian |
    #[must_use]
    pub fn derive(secret: &[u8; 32], chain_id: u64, contract: &Address, index: u64) -> Self {
        Deriver::new(secret, chain_id, contract).key(index)
    }

    /// The name key of `token` on a contract that keeps no name keys: as [`NameKey::derive`], with the
    /// purpose `token name` and the token as index.
    #[must_use]
    pub fn derive_of_token(
        secret: &[u8; 32],
        chain_id: u64,
        contract: &Address,
        token: u64,
    ) -> Self {
        Deriver::with_purpose(TOKEN_PURPOSE, secret, chain_id, contract).key(token)
    }

    /// Looks for the key of `name` among the indices 0 to `nonce` (the wallet's
    /// `eth_getTransactionCount`, at most 2^20), from the newest down. Costs about 30 µs an index.
    #[must_use]
    pub fn find(
        name: &str,
        secret: &[u8; 32],
        chain_id: u64,
        contract: &Address,
        nonce: u64,
    ) -> Option<(u64, Self)> {
        let wanted = public_key(name).ok()?;
        let deriver = Deriver::new(secret, chain_id, contract);
        (0..=nonce.min(MOST_INDICES))
            .rev()
            .map(|index| (index, deriver.key(index)))
            .find(|(_, key)| key.0.verifying_key() == wanted)
    }

    /// The keys of those of `names` that are the wallet's, each index derived once: the others have `None`.
    #[must_use]
    pub fn find_all(
        names: BTreeSet<String>,
        secret: &[u8; 32],
        chain_id: u64,
        contract: &Address,
        nonce: u64,
    ) -> HashMap<String, Option<(u64, Self)>> {
        let named = |name: &String| Some((public_key(name).ok()?.to_bytes(), name.clone()));
        let mut wanted: HashMap<[u8; 32], String> = names.iter().filter_map(named).collect();
        let mut found: HashMap<String, Option<(u64, Self)>> =
            names.into_iter().map(|name| (name, None)).collect();
        let deriver = Deriver::new(secret, chain_id, contract);
        for index in (0..=nonce.min(MOST_INDICES)).rev() {
            if wanted.is_empty() {
                break;
            }
            let key = deriver.key(index);
            if let Some(name) = wanted.remove(&key.0.verifying_key().to_bytes()) {
                found.insert(name, Some((index, key)));
            }
        }
        found
    }

    /// The name that this key owns: `k51…`.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(&self.0.verifying_key())
    }

    /// What signs records and usage metadata.
    #[must_use]
    pub fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

impl fmt::Debug for NameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameKey({}, secret redacted)", self.name())
    }
}

/// Derives the keys of one wallet for one contract.
struct Deriver {
    extracted: Hkdf<Sha256>,
    /// What stands before the index.
    info: Vec<u8>,
}

impl Deriver {
    fn new(secret: &[u8; 32], chain_id: u64, contract: &Address) -> Self {
        Self::with_purpose(PURPOSE, secret, chain_id, contract)
    }

    fn with_purpose(purpose: &[u8], secret: &[u8; 32], chain_id: u64, contract: &Address) -> Self {
        let info = [purpose, &[0], &chain_id.to_be_bytes(), contract.as_slice()];
        let info = info.concat();
        Self {
            extracted: Hkdf::new(Some(SALT), secret),
            info,
        }
    }

    fn key(&self, index: u64) -> NameKey {
        let info = [self.info.as_slice(), &index.to_be_bytes()].concat();
        let mut seed = Zeroizing::new([0; 32]);
        // Only an output above 255 hashes is refused; this is one.
        let _ = self.extracted.expand(&info, seed.as_mut());
        NameKey::from_seed(&seed)
    }
}

/// Why a text is not a name.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not the name of an ed25519 key (k51…)")]
pub struct NameTextError(String);

/// The name of a public key: base36 of CIDv1 libp2p-key.
#[must_use]
pub fn name_of(key: &VerifyingKey) -> String {
    let mut bytes = NAME_PREFIX.to_vec();
    bytes.extend(key.as_bytes());
    multibase::encode(Base::Base36Lower, bytes)
}

/// The key that owns `name`, which must match `^k51[0-9a-z]{59}$`, decode to an ed25519 key in its
/// one form, and not be of small order (such a key signs anything for anybody).
pub fn public_key(name: &str) -> Result<VerifyingKey, NameTextError> {
    let refused = || NameTextError(pxfs_base::text::name(name));
    let plain = name.len() == NAME_CHARS
        && name.starts_with("k51")
        && name
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    if !plain {
        return Err(refused());
    }
    let (_, bytes) = multibase::decode(name).map_err(|_| refused())?;
    let key: [u8; 32] = bytes
        .strip_prefix(&NAME_PREFIX)
        .and_then(|key| key.try_into().ok())
        .ok_or_else(refused)?;
    let key = VerifyingKey::from_bytes(&key).map_err(|_| refused())?;
    if key.is_weak() || name_of(&key) != name {
        return Err(refused());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];
    const CONTRACT: Address = Address::repeat_byte(0x11);

    /// Known answers, computed once by an independent program (RFC 5869 and RFC 8032 in Python): whoever
    /// changes them locks owners out of their names.
    #[test]
    fn keys_are_found_again_by_every_later_version() {
        let key = NameKey::derive(&SECRET, 137, &CONTRACT, 5);
        assert_eq!(
            key.name(),
            "k51qzi5uqu5dkp5oe3nq3skl79w3eusqk7boojibugk8x06m8xzc2jbf8n8d8x"
        );
    }

    #[test]
    fn every_part_of_the_place_gives_another_key() {
        let names: std::collections::HashSet<String> = [
            NameKey::derive(&SECRET, 137, &CONTRACT, 5),
            NameKey::derive(&SECRET, 137, &CONTRACT, 6),
            NameKey::derive(&SECRET, 138, &CONTRACT, 5),
            NameKey::derive(&SECRET, 137, &Address::repeat_byte(0x12), 5),
            NameKey::derive(&[8; 32], 137, &CONTRACT, 5),
            NameKey::derive_of_token(&SECRET, 137, &CONTRACT, 5),
        ]
        .iter()
        .map(NameKey::name)
        .collect();
        assert_eq!(names.len(), 6);
    }

    #[test]
    fn a_second_machine_finds_the_key_of_a_name() {
        let name = NameKey::derive(&SECRET, 1, &CONTRACT, 3).name();
        let found = NameKey::find(&name, &SECRET, 1, &CONTRACT, 9).unwrap();
        assert_eq!((found.0, found.1.name()), (3, name.clone()));
        assert!(NameKey::find(&name, &SECRET, 1, &CONTRACT, 3).is_some());
        assert!(NameKey::find(&name, &SECRET, 1, &CONTRACT, 2).is_none());
        assert!(NameKey::find(&name, &SECRET, 2, &CONTRACT, 9).is_none());
    }

    #[test]
    fn a_name_is_its_key_and_has_one_text() {
        let key = NameKey::from_seed(&[1; 32]);
        let name = key.name();
        assert!(name.starts_with("k51qzi5uqu5d") && name.len() == 62);
        assert_eq!(public_key(&name), Ok(key.signing_key().verifying_key()));
        let flipped = name.replace(&name[61..], if name.ends_with('a') { "b" } else { "a" });
        for bad in [
            "",
            "k51",
            &name.to_uppercase(),
            &name[..61],
            &format!("{name}0"),
            &format!("/ipns/{name}"),
            &format!("k51{}", "z".repeat(59)),
            &format!("k51{}", "0".repeat(59)),
            &format!("é{}", &name[2..]),
        ] {
            assert!(public_key(bad).is_err(), "{bad}");
        }
        assert_ne!(public_key(&flipped), public_key(&name));
    }

    #[test]
    fn a_key_that_signs_for_anybody_owns_no_name() {
        let mut identity = [0; 32];
        identity[0] = 1;
        for weak in [identity, [0; 32]] {
            let key = VerifyingKey::from_bytes(&weak).unwrap();
            assert!(public_key(&name_of(&key)).is_err());
        }
    }

    #[test]
    fn a_damaged_seed_is_no_key() {
        let seed = "ab".repeat(32);
        assert!(NameKey::from_hex(seed.as_bytes()).is_some());
        for bad in [
            "",
            "abc",
            &"g".repeat(64),
            &seed[2..],
            &seed.to_uppercase(),
            &seed.repeat(9),
        ] {
            assert!(NameKey::from_hex(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_secret_never_reaches_a_log() {
        let key = NameKey::from_seed(&[0xab; 32]);
        let printed = format!("{key:?}");
        assert!(printed.contains(&key.name()) && !printed.contains("abab"));
        assert!(!printed.contains("171"));
    }
}
