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
use super::commit::{Context, Other, newest_head};
use super::follow::{self, Step};
use super::gone::{Gone, lost_document};
use super::head;
use super::judge;
use super::state::{self, Head, State};
use super::writers;
use crate::names::record::{BTNS_SEQUENCE, Network, Record, ipns_sequence};
use crate::names::{NameError, NameStore, is_same};
use crate::store::StoreError;

/// Life of a name record, seconds: one year.
const LIFE_S: u64 = 365 * 86_400;

/// How long others may answer from a record without asking again: one minute.
const TTL_NS: u64 = 60_000_000_000;

/// The value of a volume that says when its last record ends: unix seconds, 8 bytes, big-endian.
const RECORD_END: &str = "record-end";

/// How long a commit waits for the other nodes to learn a name, and how long they may take: first they look for it,
/// then they tell others of it, then they look again.
const OTHERS: Duration = Duration::from_secs(5);
const OTHERS_BESIDE: Duration = Duration::from_secs(600);

/// Puts the record of the last commit again, with a later end of life.
pub(super) async fn renew(context: &Context) -> Result<(), PublishError> {
    let (head, held_end_s) = newest_head(context).await?;
    let Some(document) = head.document else {
        return Ok(());
    };
    // Whoever made the commit, or began from it as well, may have renewed it more often.
    let named = head::resolve(context).await?;
    let end_s = named.as_ref().map_or(0, |named| named.end_s);
    let held_end_s = held_end_s.max(end_s);
    let held = named.filter(|named| named.usage.sequence == head.sequence);
    let held_renewals = held.map_or(0, |held| held.renewals);
    let (signer, expected) = (context.clone(), head.clone());
    let renewed = State::change(&context.volume, move |state| {
        let Some(head) = state.renew(&expected, held_renewals) else {
            return Ok(None);
        };
        let told = (document.0, head.sequence, head.renewals);
        let (bytes, end_s) = record(&signer, signer.node.network, told, held_end_s)?;
        state.also(end_value(end_s));
        Ok(Some((head, told, bytes)))
    });
    let Some((head, told, bytes)) = renewed.await? else {
        // Another machine's commit became the head while the node answered, and has a record of its own.
        return Ok(());
    };
    put_record(context, &bytes, head.root.map(|root| root.0), &head).await?;
    tell_others(context, told).await;
    Ok(())
}

/// Whether the node that is written to still says of the name what the last commit told it.
pub(super) async fn is_named(context: &Context) -> Result<bool, PublishError> {
    let head = state::head(&context.volume)?;
    let name = context.key.name();
    match context.node.names.resolve(&name).await {
        Ok(bytes) => Ok(Record::verify(&name, &bytes)
            .is_ok_and(|named| head.document.is_none_or(|told| told.0 == named.cid))),
        Err(NameError::Missing(_)) => Ok(head.document.is_none()),
        Err(NameError::Corrupt(..)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Looks at the name once more after a commit: false where it did not say what it was told, and is told again.
///
/// # Errors
/// Another machine's commit has met ours: [`PublishError::Conflict`]; a node does not answer.
pub(super) async fn look_again(context: &Context) -> Result<bool, PublishError> {
    let head = state::head(&context.volume)?;
    if let Err(error) = refuse_foreign(context, &head, None).await {
        let is_conflict = matches!(error, PublishError::Conflict(_));
        return match is_conflict && follow::look(context).await? != Step::Parted {
            // It has gone on from ours.
            true => Ok(true),
            false => Err(error),
        };
    }
    let named = is_named(context).await?;
    if !named {
        renew(context).await?;
    }
    Ok(named)
}

/// A root that is not ours stops everything that would hide it. When the records end that nodes have
/// of ours, unix seconds.
pub(super) async fn refuse_foreign(
    context: &Context,
    head: &Head,
    ours: Option<Cid>,
) -> Result<u64, PublishError> {
    let named = match head::resolve(context).await {
        Err(PublishError::Store(StoreError::Missing(document))) => {
            return Err(lost_document(&context.key.name(), &document));
        }
        named => named?,
    };
    let Some(named) = named else {
        // There may be one that says nothing any more, and ends late: where that counts.
        return match context.node.network {
            Network::Ipfs => Ok(0),
            Network::Btfs => held_end_s(&context.key.name(), &context.node.names).await,
        };
    };
    let (sequence, root) = (named.usage.sequence, named.usage.root);
    let is_gone = Gone::has_been(&context.volume, root.as_ref())?;
    if is_gone || !judge::is_foreign(head, sequence, root.as_ref(), ours.as_ref()) {
        let is_head = sequence == head.sequence && root == head.root.map(|root| root.0);
        if is_head && named.renewals > head.renewals {
            // Nobody puts a record again but a machine that has the key, and this one did not.
            writers::note(context).await?;
        }
        return Ok(named.end_s);
    }
    writers::note(context).await?;
    Err(head::conflict(
        named.usage.sequence,
        named.usage.root.as_ref(),
    ))
}

/// A record of a document, its sequence and renewal, signed, and when it ends, unix seconds: after
/// `held_end_s`, when the one ends that the node has.
pub(super) fn record(
    context: &Context,
    network: Network,
    (document, sequence, renewal): (Cid, u64, u64),
    held_end_s: u64,
) -> Result<(Vec<u8>, u64), PublishError> {
    let refused = |why: &str| PublishError::Refused(why.to_owned());
    let mut end_s = context.now_s() + LIFE_S;
    let sequence = match network {
        Network::Ipfs => {
            ipns_sequence(sequence, renewal).ok_or_else(|| refused("no sequence is left"))?
        }
        // There the end of life alone says which record is newer: each ends later than the last.
        Network::Btfs => {
            let kept = context.volume.raw_meta(RECORD_END)?;
            let kept =
                kept.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
            let last_s = kept.unwrap_or(0).max(held_end_s);
            end_s = end_s.max(last_s.saturating_add(1));
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
    Ok((record.sign(context.key.ours()?), end_s))
}

/// When the record ends that a node has of the name, unix seconds, rounded up; 0 where it has none that can be verified.
pub(super) async fn held_end_s(
    name: &str,
    names: &Arc<dyn NameStore>,
) -> Result<u64, PublishError> {
    match names.resolve(name).await {
        Ok(bytes) => Ok(Record::verify(name, &bytes).map_or(0, |held| head::end_s(&held))),
        Err(NameError::Missing(_) | NameError::Corrupt(..)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// [`RECORD_END`] as it is kept.
pub(super) fn end_value(end_s: u64) -> (&'static str, Option<Bytes>) {
    let bytes = Bytes::copy_from_slice(&end_s.to_be_bytes());
    (RECORD_END, Some(bytes))
}

/// Publishes a record of `root`, and looks at what is held then. `head` is what it goes on from.
pub(super) async fn put_record(
    context: &Context,
    bytes: &[u8],
    root: Option<Cid>,
    head: &Head,
) -> Result<(), PublishError> {
    let name = context.key.name();
    match context.node.names.publish(&name, bytes).await {
        // Another machine has it from us, and has renewed it since.
        Err(NameError::Stale { .. }) if is_renewed(context, bytes).await? => {
            writers::note(context).await
        }
        Err(NameError::Stale { .. }) => Err(match head::resolve(context).await {
            Ok(Some(named)) => {
                let (sequence, other) = (named.usage.sequence, named.usage.root);
                let is_gone = Gone::has_been(&context.volume, other.as_ref())?;
                let is_foreign = judge::is_foreign(head, sequence, other.as_ref(), root.as_ref());
                match is_foreign && !is_gone {
                    true => head::conflict(sequence, other.as_ref()),
                    false => PublishError::Unverified(
                        "it has a newer record of what was named before: it is tried again".into(),
                    ),
                }
            }
            _ => PublishError::Unverified(
                "it has a newer record of the name, and does not show it".into(),
            ),
        }),
        Ok(back) if is_same(&name, &back, bytes) => Ok(()),
        Ok(_) => Err(PublishError::Unverified(
            "the name record did not come back".into(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Whether the node has another record of the very document that the one of these bytes is of.
async fn is_renewed(context: &Context, bytes: &[u8]) -> Result<bool, PublishError> {
    let name = context.key.name();
    let held = match context.node.names.resolve(&name).await {
        Err(NameError::Missing(_) | NameError::Corrupt(..)) => return Ok(false),
        held => held?,
    };
    let document = |bytes: &[u8]| Record::verify(&name, bytes).ok().map(|record| record.cid);
    Ok(document(bytes).is_some_and(|ours| document(&held) == Some(ours)))
}

/// Publishes a record of a document, its sequence and renewal on the other nodes, as far as they take
/// it: nobody waits long for one that is away or slow. It goes on beside what follows, and the next renewal tells it
/// again.
pub(super) async fn tell_others(context: &Context, told: (Cid, u64, u64)) {
    let tellings = context.node.others.iter().map(async |other| {
        let telling = tokio::spawn(timeout(OTHERS_BESIDE, tell(context, other.clone(), told)));
        if timeout(OTHERS, telling).await.is_err() {
            tracing::warn!(
                node = other.label,
                "it does not answer: the name is not told yet"
            );
        }
    });
    join_all(tellings).await;
}

/// Publishes such a record on one node, unless a later commit is made meanwhile, or the volume is closed.
fn tell(
    context: &Context,
    other: Other,
    told: (Cid, u64, u64),
) -> impl Future<Output = ()> + Send + 'static {
    let Context {
        volume,
        node,
        key,
        clock,
    } = context.clone();
    let (name, label) = (key.name(), other.label.clone());
    let volume = Arc::downgrade(&volume);
    let publish = async move {
        let (names, network) = (&other.names, other.network);
        let held_end_s = held_end_s(&name, names).await?;
        let signed = {
            let Some(volume) = volume.upgrade() else {
                return Ok(true);
            };
            let head = state::head(&volume)?;
            if head.sequence > told.1 {
                return Ok(true);
            }
            let context = Context {
                volume,
                node,
                key,
                clock,
            };
            record(&context, network, told, held_end_s)?.0
        };
        let back = names.publish(&name, &signed).await?;
        Ok::<_, PublishError>(is_same(&name, &back, &signed))
    };
    async move {
        match publish.await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(node = label, "it holds another record of the name"),
            Err(error) => tracing::warn!(node = label, %error, "it does not take the name"),
        }
    }
}
