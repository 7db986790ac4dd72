//! Another machine that writes the token: when one was last seen at its name.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 1 |
//! | 8 | when, unix seconds, u64be |
//!
//! Invariant: what shows another machine is noted durably before this one publishes anything beside it. Noted by `bootstrap`,
//! `follow` and `naming`; `worker` asks.

use bytes::Bytes;

use super::PublishError;
use super::commit::Context;
use super::pending::keep;

/// The value of a volume.
const SEEN: &str = "other-writer";
/// Its version byte.
const VERSION: u8 = 1;

/// For so long another machine counts as being there, seconds: each one that is mounted puts the name again every twelve
/// hours.
const LATELY_S: u64 = 48 * 3600;
/// How old a note gets before the same is noted anew, seconds.
const NOTED_S: u64 = 600;

/// That another machine is seen now, to be kept with what it is seen by.
pub(super) fn seen(context: &Context) -> (&'static str, Option<Bytes>) {
    (SEEN, Some(write(context.now_s())))
}

/// Keeps that another machine is seen now.
pub(super) async fn note(context: &Context) -> Result<(), PublishError> {
    if is_within(context, NOTED_S)? {
        return Ok(());
    }
    keep(&context.volume, vec![seen(context)]).await
}

/// Whether another machine was seen lately. So it counts where that cannot be read.
pub(super) fn were_seen_lately(context: &Context) -> bool {
    is_within(context, LATELY_S).unwrap_or(true)
}

fn is_within(context: &Context, age_s: u64) -> Result<bool, PublishError> {
    let bytes = context.volume.raw_meta(SEEN)?;
    let seen_s = bytes.as_deref().and_then(read);
    Ok(seen_s.is_some_and(|seen_s| context.now_s().saturating_sub(seen_s) < age_s))
}

fn write(seen_s: u64) -> Bytes {
    [&[VERSION][..], &seen_s.to_be_bytes()].concat().into()
}

fn read(bytes: &[u8]) -> Option<u64> {
    let (&VERSION, rest) = bytes.split_first()? else {
        return None;
    };
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_another_machine_was_seen_is_read_by_every_later_version() {
        let bytes = b"\x01\0\0\0\0\x6b\x49\xd2\x00";
        assert_eq!(write(1_800_000_000), &bytes[..]);
        assert_eq!(read(bytes), Some(1_800_000_000));
        for bytes in [&b""[..], b"\x01\0\0", b"\x02\0\0\0\0\x6b\x49\xd2\x00"] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}
