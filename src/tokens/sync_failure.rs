//! Stores why a token's last sync failed, so that `status` says so after a restart, until one lands.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 1 |
//! | 8 | `lastUpdateTimestamp` when it failed, u64be |
//! | n | why, UTF-8 |
//!
//! Invariant: nothing here waits for the disk; a lost entry costs only a line of `status`.

use bytes::Bytes;

use crate::chain::TokenInfo;
use crate::fs::Volume;

const NAME: &str = "sync-failed";
const VERSION: u8 = 1;

/// The stored failure, unless a sync of `token` has landed since.
pub(super) fn kept(volume: &Volume, token: &TokenInfo) -> Option<String> {
    let bytes = volume.raw_meta(NAME).ok().flatten()?;
    let (last_sync_s, why) = read(&bytes)?;
    (token.last_sync_s <= last_sync_s).then_some(why)
}

/// Stores the failure, or that there is none.
pub(super) fn keep(volume: &Volume, last_sync_s: u64, why: Option<&str>) {
    let value = why.map(|why| write(last_sync_s, why));
    if let Err(error) = volume.note(vec![(NAME, value)]) {
        tracing::debug!(%error, "why a sync failed is not kept");
    }
}

fn write(last_sync_s: u64, why: &str) -> Bytes {
    let whole = [&[VERSION][..], &last_sync_s.to_be_bytes(), why.as_bytes()];
    whole.concat().into()
}

fn read(bytes: &[u8]) -> Option<(u64, String)> {
    let (&VERSION, rest) = bytes.split_first()? else {
        return None;
    };
    let (last_sync_s, why) = rest.split_first_chunk()?;
    let why = std::str::from_utf8(why).ok()?;
    Some((u64::from_be_bytes(*last_sync_s), why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_sync_failed_is_read_by_every_later_version() {
        let bytes = b"\x01\0\0\0\0\x6b\x49\xd2\x00sync: no operator";
        assert_eq!(write(1_800_000_000, "sync: no operator"), &bytes[..]);
        let read_again = read(bytes);
        assert_eq!(
            read_again,
            Some((1_800_000_000, "sync: no operator".to_owned()))
        );
        // Damaged values and later versions say nothing.
        for bytes in [&b""[..], b"\x01\0\0", b"\x02\0\0\0\0\0\0\0\0x"] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}
