//! The head: the newest commit of a volume, and which one that is.
//!
//! Invariant: a head never goes back. A state that is older than one that was seen, here or on
//! chain, is refused; one that does not contain our own last commit is a conflict.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::future::{join, join_all};
use tokio::time::timeout;

use super::PublishError;
use super::commit::Context;
use super::gone::Gone;
use super::past::Past;
use super::pending::{PENDING, keep};
use super::state;
use crate::chain::TokenInfo;
use crate::fs::{FsError, Volume};
use crate::names::key::public_key;
use crate::names::record::{
    BTNS_SEQUENCE, Network, Record, commit_of_ipns_sequence, renewal_of_ipns_sequence,
};
use crate::names::{NameError, NameStore};
use crate::pack::cid as form;
use crate::pack::root::{Root, WriterId};
use crate::pack::usage::{self, Usage};
use crate::store::BlockStoreExt;

/// What a name points at.
pub(super) struct Named {
    pub(super) document: Cid,
    /// The bytes of that.
    pub(super) bytes: Bytes,
    pub(super) usage: Usage,
    /// How often the record had been put again, where that can be told from it.
    pub(super) renewals: u64,
    /// When it ends, or one that another node has, unix seconds, rounded up.
    pub(super) end_s: u64,
}

/// How long the other nodes may take to say what they have of a name.
const OTHERS: Duration = Duration::from_secs(5);

/// [`resolve`] without what was given up.
pub(super) async fn look_up(context: &Context) -> Result<Option<Named>, PublishError> {
    let gone = Gone::of(&context.volume)?.unwrap_or_default();
    let named = resolve(context).await?;
    Ok(named.filter(|named| !gone.has(named.usage.root.as_ref())))
}

/// The newest document that the token's name points at on any node; `None` when the name has no record. One whose root
/// was given up only where there is no other.
///
/// A record that cannot be verified under the name's own key says nothing, and is no other machine's: it holds nothing up.
///
/// # Errors
/// There is no other record, and nothing here: that something was published cannot be told then, and an empty drive
/// could hide it: [`NameError::Corrupt`].
pub(super) async fn resolve(context: &Context) -> Result<Option<Named>, PublishError> {
    let node = &context.node;
    let gone = Gone::of(&context.volume)?.unwrap_or_default();
    let rank = |named: &Named| (!gone.has(named.usage.root.as_ref()), named.usage.sequence);
    let here = Here::of(&context.volume, gone.clone())?;
    let others = join_all(node.others.iter().map(async |other| {
        let asked = resolve_at(context, &other.names, &here);
        match timeout(OTHERS, asked).await {
            Ok(Ok(named)) => named,
            Ok(Err(error)) => {
                tracing::debug!(node = other.label, %error, "what it has of the name is not known");
                None
            }
            Err(_) => None,
        }
    }));
    let first = resolve_at(context, &node.names, &here);
    let (first, others) = join(first, others).await;
    let (first, unverified) = match first {
        Err(PublishError::Name(NameError::Corrupt(name, why))) => (None, Some((name, why))),
        first => (first?, None),
    };
    let all = first.into_iter().chain(others.into_iter().flatten());
    // The first of equals: the node that is written to.
    let newest = all.reduce(|newest, next| {
        let end_s = newest.end_s.max(next.end_s);
        let newer = match rank(&next) > rank(&newest) {
            true => next,
            false => newest,
        };
        Named { end_s, ..newer }
    });
    tell_once(context, unverified.as_ref());
    match unverified {
        Some((name, why)) if newest.is_none() && is_fresh(&context.volume)? => {
            let why = format!(
                "{why}. Nothing here tells what was published, and an empty drive could hide it: mount on the \
                 machine that wrote last, which puts the record again, or name another node first"
            );
            Err(NameError::Corrupt(name, why).into())
        }
        _ => Ok(newest),
    }
}

/// Whether nothing was published or written from this state folder, nor begun from what another machine published.
fn is_fresh(volume: &Volume) -> Result<bool, PublishError> {
    let has_begun = state::known_head(volume)?.is_some() || volume.raw_meta(PENDING)?.is_some();
    Ok(!has_begun && volume.activity().is_none())
}

/// The log has a line when a name's record on the node that is written to cannot be verified any more, not with each look.
fn tell_once(context: &Context, unverified: Option<&(String, String)>) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    match unverified {
        None => drop(told.remove(&context.key.name())),
        Some((name, why)) if told.insert(name.clone()) => {
            tracing::warn!(
                node = context.node.label,
                name,
                why,
                "its record of the name cannot be verified: it counts as none"
            );
        }
        Some(_) => {}
    }
}

/// What can be told of a record without asking for its document.
struct Here {
    /// The head's document, of our own last commit.
    document: Option<Bytes>,
    sequence: u64,
    past: Past,
    gone: Gone,
}

impl Here {
    fn of(volume: &Volume, gone: Gone) -> Result<Self, PublishError> {
        let head = state::head(volume)?;
        Ok(Self {
            document: volume.raw_meta("document")?,
            sequence: head.sequence,
            past: Past::of(volume)?,
            gone,
        })
    }

    /// Whether a record whose document no node has is of nothing that counts: of a commit before the head, or one that
    /// was given up.
    fn is_over(&self, record: &Record) -> bool {
        let is_older = record.network == Network::Ipfs
            && commit_of_ipns_sequence(record.sequence) < self.sequence;
        is_older || self.past.has(&record.cid) || self.gone.has_document(&record.cid)
    }
}

/// [`resolve`] on one node.
///
/// # Errors
/// The record's document is nowhere, and may be of something newer: [`PublishError::Store`], that it is missing.
async fn resolve_at(
    context: &Context,
    names: &Arc<dyn NameStore>,
    here: &Here,
) -> Result<Option<Named>, PublishError> {
    let (node, volume) = (&context.node, context.volume.key());
    let name = &context.key.name();
    let bytes = match names.resolve(name).await {
        Ok(bytes) => bytes,
        Err(NameError::Missing(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let record = Record::verify(name, &bytes)
        .map_err(|e| NameError::Corrupt(name.to_owned(), e.to_string()))?;
    let ours = here.document.as_ref();
    let ours = ours.and_then(|ours| usage::block_named(ours, &record.cid));
    let block = match ours {
        Some(ours) => ours.data,
        None => match node.fetcher.source().store().get(&record.cid).await {
            // Whoever may have it and does not say: it is of nothing that counts.
            Err(_) if here.is_over(&record) => return Ok(None),
            document => document?,
        },
    };
    form::verify(&record.cid, &block)
        .map_err(|e| PublishError::Refused(format!("document {}: {e}", record.cid)))?;
    let document = usage::document(&record.cid, &block);
    let document = document.map_err(|e| PublishError::Refused(e.to_string()))?;
    let key = public_key(name).map_err(|e| PublishError::Refused(e.to_string()))?;
    let usage = Usage::verify(&document, &key).map_err(|e| PublishError::Refused(e.to_string()))?;
    if usage.volume != volume {
        return Err(PublishError::Refused(format!(
            "name {name} points at a document of another token or epoch"
        )));
    }
    let (agrees, renewals) = match record.network {
        Network::Ipfs => (
            commit_of_ipns_sequence(record.sequence) == usage.sequence,
            renewal_of_ipns_sequence(record.sequence),
        ),
        // Nobody signs it there.
        Network::Btfs => (record.sequence == BTNS_SEQUENCE, 0),
    };
    if !agrees {
        return Err(PublishError::Refused(format!(
            "the record of {name} and its document have different sequences"
        )));
    }
    Ok(Some(Named {
        document: record.cid,
        bytes: document,
        usage,
        renewals,
        end_s: end_s(&record),
    }))
}

/// When another machine's root was made, unix seconds; its clock may be ahead of ours.
pub(super) fn made_s(context: &Context, root: &Root) -> u64 {
    let made_s = u64::try_from(root.time_ns / 1_000_000_000).unwrap_or(0);
    made_s.min(context.now_s())
}

/// When a record ends, unix seconds, rounded up.
pub(super) fn end_s(record: &Record) -> u64 {
    u64::try_from(record.end_of_life.as_second().saturating_add(1)).unwrap_or(0)
}

/// What the chain says was published under `name`: sequence and root.
pub(super) fn on_chain(token: &TokenInfo, name: &str) -> Option<(u64, Option<Cid>)> {
    let (sequence, root) = token.published(name)?;
    Some((sequence, root.map(|root| form::node_of_digest(root.0))))
}

/// The newer of what the name and the chain say, as sequence and root. Where the two part, the name counts, if whoever
/// asks has been `told` which it is.
///
/// # Errors
/// They part: [`PublishError::Refused`].
pub(super) fn newest(
    named: Option<&Usage>,
    chain: Option<(u64, Option<Cid>)>,
    told: bool,
) -> Result<Option<(u64, Option<Cid>)>, PublishError> {
    let named = named.map(|usage| (usage.sequence, usage.root));
    let (Some((sequence, root)), Some(anchored)) = (named, chain) else {
        return Ok(named.or(chain));
    };
    if sequence < anchored.0 {
        // The name was rolled back, or its record was lost; the chain knows better.
        return Ok(chain);
    }
    if !told && sequence == anchored.0 && root != anchored.1 {
        return Err(PublishError::Refused(format!(
            "the name points at another root than the chain has at sequence {sequence}: to go on from that one, mount \
             with --take-over"
        )));
    }
    Ok(named)
}

/// The id of this state folder as a writer, made at the first call.
pub(super) async fn writer(volume: &Arc<Volume>) -> Result<WriterId, PublishError> {
    if let Some(bytes) = volume.raw_meta("writer")?
        && let Ok(id) = <[u8; 16]>::try_from(bytes.as_ref())
    {
        return Ok(WriterId(id));
    }
    let id = random()?;
    let value = Bytes::copy_from_slice(&id);
    keep(volume, vec![("writer", Some(value))]).await?;
    Ok(WriterId(id))
}

/// 128 random bits.
pub(super) fn random() -> Result<[u8; 16], PublishError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| PublishError::Local(FsError::Disk(e.to_string())))?;
    Ok(id)
}

pub(super) fn conflict(sequence: u64, root: Option<&Cid>) -> PublishError {
    let root = root.map_or_else(String::new, |root| format!(" (root {root})"));
    PublishError::Conflict(format!(
        "another machine published sequence {sequence}{root} without what was written here; both are \
         kept, and nothing is published from here. To publish this tree over the other one: unmount, \
         mount again with --take-over. To go on from the other one: copy what is needed from here, \
         unmount, mount again with --give-way, which sets this one aside in the state folder"
    ))
}
