//! The name of a volume and its records: signed, published, read back, put again.
//!
//! Invariant: a record is newer than every one before it, on each network by what that goes by; nothing that
//! another machine has named is hidden by one of ours. Called by `commit` and `queue`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::timeout;

use super::PublishError;
use super::commit::{Context, newest_head};
use super::head::{self, Head};
use super::pending::keep;
use crate::journal::record::Record as _;
use crate::names::record::{
    BTNS_SEQUENCE, Network, Record, commit_of_ipns_sequence, ipns_sequence,
};
use crate::names::{NameError, NameStore};

/// Life of a name record, seconds: one year.
const LIFE_S: u64 = 365 * 86_400;

/// How long others may answer from a record without asking again: one minute.
const TTL_NS: u64 = 60_000_000_000;

/// The value of a volume that says when its last record ends: unix seconds, 8 bytes, big-endian.
const RECORD_END: &str = "record-end";

/// How long the other nodes may take to learn a name.
const OTHERS: Duration = Duration::from_secs(5);

/// Puts the record of the last commit again, with a later end of life.
pub(super) async fn renew(context: &Context) -> Result<(), PublishError> {
    let mut head = newest_head(context).await?;
    let Some(document) = head.document else {
        return Ok(());
    };
    // Whoever made the commit, or began from it as well, may have renewed it more often.
    let named = head::resolve(&context.node, context.volume.key(), &context.key.name()).await?;
    let held = named.filter(|named| named.usage.sequence == head.sequence);
    head.renewals = held.map_or(0, |held| held.renewals).max(head.renewals) + 1;
    let (names, network) = (&context.node.names, context.node.network);
    let (bytes, end_s) = record(
        context,
        names,
        network,
        document.0,
        head.sequence,
        head.renewals,
    )
    .await?;
    let told = (document.0, head.sequence, head.renewals);
    let root = head.root.map(|root| root.0);
    let head = ("head", Some(head.to_bytes()));
    keep(&context.volume, vec![head, end_value(end_s)]).await?;
    put_record(context, &bytes, root).await?;
    tell_others(context, told).await;
    Ok(())
}

/// Whether the node that is written to still says of the name what the last commit told it.
pub(super) async fn is_named(context: &Context) -> Result<bool, PublishError> {
    let head: Head = context.volume.meta("head")?.unwrap_or_default();
    let name = context.key.name();
    match context.node.names.resolve(&name).await {
        Ok(bytes) => Ok(Record::verify(&name, &bytes)
            .is_ok_and(|named| head.document.is_none_or(|told| told.0 == named.cid))),
        Err(NameError::Missing(_)) => Ok(head.document.is_none()),
        Err(error) => Err(error.into()),
    }
}

/// A root that is not ours stops everything that would hide it.
pub(super) async fn refuse_foreign(
    context: &Context,
    head: &Head,
    ours: Option<Cid>,
) -> Result<(), PublishError> {
    let volume = context.volume.key();
    let named = head::resolve(&context.node, volume, &context.key.name()).await?;
    let Some(named) = named else { return Ok(()) };
    if ours.is_some() && named.usage.root == ours {
        return Ok(());
    }
    let same = named.usage.sequence == head.sequence && named.usage.root == head.root.map(|r| r.0);
    if same || named.usage.sequence < head.sequence {
        return Ok(());
    }
    // A commit of ours that left before a crash, and was given up since, is no other machine's.
    let given_up = named.usage.sequence < head.next && named.usage.root.is_none();
    if given_up || (named.usage.root.is_none() && head.root.is_none()) {
        return Ok(());
    }
    Err(head::conflict(
        named.usage.sequence,
        named.usage.root.as_ref(),
    ))
}

/// A record of `document`, signed, and when it ends, unix seconds.
pub(super) async fn record(
    context: &Context,
    names: &Arc<dyn NameStore>,
    network: Network,
    document: Cid,
    sequence: u64,
    renewal: u64,
) -> Result<(Vec<u8>, u64), PublishError> {
    let refused = |why: &str| PublishError::Refused(why.to_owned());
    let mut end_s = context.now_s() + LIFE_S;
    let sequence = match network {
        Network::Ipfs => {
            ipns_sequence(sequence, renewal).ok_or_else(|| refused("no sequence is left"))?
        }
        // There the end of life alone says which record is newer: each ends later than the last.
        Network::Btfs => {
            end_s = end_s.max(last_end_s(context, names).await?.saturating_add(1));
            BTNS_SEQUENCE
        }
    };
    let end = i64::try_from(end_s).ok();
    let end = end.and_then(|end| Timestamp::from_second(end).ok());
    let record = Record {
        network,
        cid: document,
        sequence,
        end_of_life: end.ok_or_else(|| refused("the clock is wrong"))?,
        ttl_ns: TTL_NS,
    };
    Ok((record.sign(&context.key), end_s))
}

/// [`RECORD_END`] as it is kept.
pub(super) fn end_value(end_s: u64) -> (&'static str, Option<Bytes>) {
    let bytes = Bytes::copy_from_slice(&end_s.to_be_bytes());
    (RECORD_END, Some(bytes))
}

/// When the latest record of the name ends that is known here or at a node, unix seconds, rounded up.
async fn last_end_s(context: &Context, names: &Arc<dyn NameStore>) -> Result<u64, PublishError> {
    let kept = context.volume.raw_meta(RECORD_END)?;
    let kept = kept.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
    let name = context.key.name();
    let held = match names.resolve(&name).await {
        Ok(bytes) => Record::verify(&name, &bytes).ok(),
        Err(NameError::Missing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let held = held.map_or(0, |held| held.end_of_life.as_second().saturating_add(1));
    Ok(kept.unwrap_or(0).max(u64::try_from(held).unwrap_or(0)))
}

/// Publishes a record of `root` and reads it back.
pub(super) async fn put_record(
    context: &Context,
    bytes: &[u8],
    root: Option<Cid>,
) -> Result<(), PublishError> {
    let name = context.key.name();
    match context.node.names.publish(&name, bytes).await {
        Err(NameError::Stale { held, .. }) => {
            let volume = context.volume.key();
            return Err(match head::resolve(&context.node, volume, &name).await {
                Ok(Some(named)) if named.usage.root == root => {
                    PublishError::Unverified("it has a newer record of the same root".into())
                }
                Ok(Some(named)) => head::conflict(named.usage.sequence, named.usage.root.as_ref()),
                _ => head::conflict(commit_of_ipns_sequence(held), None),
            });
        }
        other => other?,
    }
    let back = context.node.names.resolve(&name).await?;
    if back != bytes {
        return Err(PublishError::Unverified(
            "the name record did not come back".into(),
        ));
    }
    Ok(())
}

/// Publishes a record of a document, its sequence and renewal on the other nodes, as far as they take
/// it: nobody waits long for one that is away, and the next renewal tells it again.
pub(super) async fn tell_others(context: &Context, (document, sequence, renewal): (Cid, u64, u64)) {
    let name = &context.key.name();
    let told = context.node.others.iter().map(async |other| {
        let publish = async {
            let (names, network) = (&other.names, other.network);
            let signed = record(context, names, network, document, sequence, renewal).await?;
            Ok::<_, PublishError>(names.publish(name, &signed.0).await?)
        };
        match timeout(OTHERS, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(node = other.label, %error, "it does not take the name")
            }
            Err(_) => tracing::warn!(
                node = other.label,
                "it does not answer: the name is not told"
            ),
        }
    });
    join_all(told).await;
}
