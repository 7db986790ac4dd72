//! The slots that tokens' inode numbers begin with.

use sha2::{Digest, Sha256};

use crate::types::VolumeKey;

pub(crate) fn preferred_slot(key: &VolumeKey, place: usize) -> u16 {
    if let Some(small) = key
        .token
        .token
        .as_u64()
        .and_then(|id| u16::try_from(id).ok())
        && (1..u16::MAX).contains(&small)
        && place == 0
    {
        return small;
    }
    let mut hash = Sha256::new();
    if place > 0 {
        hash.update(key.token.chain_id.to_be_bytes());
        hash.update(key.token.contract);
    }
    hash.update(key.token.token.0.to_be_bytes::<32>());
    match hash.finalize().as_slice() {
        [a, b, ..] => u16::from_be_bytes([*a, *b]) % (u16::MAX - 1) + 1,
        _ => 1,
    }
}
