//! The head: the newest commit of a volume, and which one that is.
//!
//! Invariant: a head never goes back. A state that is older than one that was seen, here or on
//! chain, is refused; one that does not contain our own last commit is a conflict.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use futures::future::{join, join_all};
use jiff::Timestamp;
use minicbor::{CborLen, Decode, Encode};
use tokio::time::timeout;

use super::PublishError;
use super::commit::Context;
use super::grace::Grace;
use super::is_idle;
use super::judge;
use super::pending::{PENDING, Pending, Versions, keep};
use crate::chain::{Accounting, TokenInfo};
use crate::fetch::source::blocking;
use crate::fs::{FsError, Volume};
use crate::journal::record::{CidBytes, Record as _};
use crate::names::key::public_key;
use crate::names::record::{
    BTNS_SEQUENCE, Network, Record, commit_of_ipns_sequence, renewal_of_ipns_sequence,
};
use crate::names::{NameError, NameStore};
use crate::pack::cid as form;
use crate::pack::root::{Root, WriterId};
use crate::pack::usage::Usage;

/// The value of a volume that stands from a take-over to the commit that ends it.
pub(super) const TAKEN_OVER: &str = "taken-over";

/// The value of a volume that was begun anew though the chain shows that something was stored.
const BEGUN_ANEW: &str = "begun-anew";

/// A record by another writer that is younger than this makes the mount read-only, seconds.
const FRESH_S: u64 = 600;

/// The newest commit that this state folder knows, as its journal keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Head {
    /// Sequence of the commit.
    #[n(0)]
    pub(super) sequence: u64,
    /// Its root; `None` where only a first document was published.
    #[n(1)]
    pub(super) root: Option<CidBytes>,
    /// Its usage document.
    #[n(2)]
    pub(super) document: Option<CidBytes>,
    /// Commits of this volume so far.
    #[n(3)]
    pub(super) uploads: u64,
    /// How often its record was put again.
    #[n(4)]
    pub(super) renewals: u64,
    /// When it was made, unix seconds.
    #[n(5)]
    pub(super) time_s: u64,
    /// The lowest sequence that was never given to a root.
    #[n(6)]
    pub(super) next: u64,
    /// Sequence and root digest of our own last commit; `None` before it.
    #[n(7)]
    pub(super) own: Option<Own>,
}

/// Our own last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub(super) struct Own {
    #[n(0)]
    pub(super) sequence: u64,
    #[n(1)]
    pub(super) root: CidBytes,
}

/// What a mount found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// The state folder is current.
    Current,
    /// Nothing was ever published.
    New,
    /// A fresh state folder has begun from this root.
    Adopted(Cid),
    /// Another machine has gone on from what is here, and nothing here is unpublished: remove the
    /// volume's state folder and begin again, to take its work over.
    Behind,
    /// The state folder is current, and nothing may be written yet, for this reason: see [`recent`].
    ReadOnly(String),
}

/// What a name points at.
pub(super) struct Named {
    pub(super) document: Cid,
    pub(super) usage: Usage,
    /// How often the record had been put again, where that can be told from it.
    pub(super) renewals: u64,
    /// When it ends, or one that another node has, unix seconds, rounded up.
    pub(super) end_s: u64,
}

/// How long the other nodes may take to say what they have of a name.
const OTHERS: Duration = Duration::from_secs(5);

/// The newest document that the token's name points at on any node; `None` when the name has no record.
pub(super) async fn resolve(context: &Context) -> Result<Option<Named>, PublishError> {
    let node = &context.node;
    // Of our own last commit it is here.
    let ours = context.volume.raw_meta("document")?;
    let others = join_all(node.others.iter().map(async |other| {
        let asked = resolve_at(context, &other.names, ours.as_ref());
        match timeout(OTHERS, asked).await {
            Ok(Ok(named)) => named,
            Ok(Err(error)) => {
                tracing::debug!(node = other.label, %error, "what it has of the name is not known");
                None
            }
            Err(_) => None,
        }
    }));
    let first = resolve_at(context, &node.names, ours.as_ref());
    let (first, others) = join(first, others).await;
    let all = first?.into_iter().chain(others.into_iter().flatten());
    // The first of equals: the node that is written to.
    Ok(all.reduce(|newest, next| {
        let end_s = newest.end_s.max(next.end_s);
        let newer = match next.usage.sequence > newest.usage.sequence {
            true => next,
            false => newest,
        };
        Named { end_s, ..newer }
    }))
}

/// [`resolve`] on one node.
async fn resolve_at(
    context: &Context,
    names: &Arc<dyn NameStore>,
    ours: Option<&Bytes>,
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
    let document = match ours.filter(|ours| form::leaf_cid(ours) == record.cid) {
        Some(ours) => ours.clone(),
        None => node.fetcher.source().store().get(&record.cid).await?,
    };
    form::verify(&record.cid, &document)
        .map_err(|e| PublishError::Refused(format!("document {}: {e}", record.cid)))?;
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

/// Finds the newest commit of the volume among this state folder, the name and the chain, and
/// begins from it where this folder is fresh. `take_over` writes although another machine did a
/// moment ago, and ends a conflict: what is here becomes the next commit, over the other one's.
///
/// # Errors
/// The node does not answer; what it gives is refused; two machines wrote: [`PublishError::Conflict`].
pub async fn bootstrap(
    context: &Context,
    token: &TokenInfo,
    take_over: bool,
) -> Result<Bootstrap, PublishError> {
    let found = find(context, token, take_over).await?;
    Ok(match (&found, recent(context)?) {
        (Bootstrap::Current | Bootstrap::Adopted(_), Some(reason)) if !take_over => {
            Bootstrap::ReadOnly(reason)
        }
        _ => found,
    })
}

/// Why nothing may be written yet, if so: another machine made the head that is known here less than
/// ten minutes ago, and may be at it still. What was begun here all the same is never held back: it
/// is published, or found to be in conflict. Asks the state folder alone.
///
/// # Errors
/// The journal cannot be read.
pub fn recent(context: &Context) -> Result<Option<String>, PublishError> {
    let volume = &context.volume;
    let Some(head) = volume.meta::<Head>("head")? else {
        return Ok(None);
    };
    let own = head.own.map(|own| (own.sequence, own.root));
    let foreign = head
        .root
        .is_some_and(|root| own != Some((head.sequence, root)));
    let until_s = head.time_s.saturating_add(FRESH_S);
    if !foreign || context.now_s() >= until_s || !is_idle(volume) {
        return Ok(None);
    }
    let told = |unix_s: u64| {
        let second = i64::try_from(unix_s).unwrap_or(i64::MAX);
        Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
    };
    Ok(Some(format!(
        "another machine wrote at {}: it can be written here from {} on, or at once after a mount \
         with --take-over",
        told(head.time_s),
        told(until_s)
    )))
}

/// [`bootstrap`], whenever the other machine wrote.
async fn find(
    context: &Context,
    token: &TokenInfo,
    take_over: bool,
) -> Result<Bootstrap, PublishError> {
    let volume = &context.volume;
    let known: Option<Head> = volume.meta("head")?;
    let named = resolve(context).await?;
    let named_now = named.as_ref().map(|n| &n.usage);
    let offered = newest(named_now, token, &context.key.name(), take_over)?;
    let pending: Option<Pending> = volume.meta(PENDING)?;
    let has_root = offered.is_some_and(|(_, root)| root.is_some());
    let nothing_begun = known.is_none() && pending.is_none() && volume.activity().is_none();
    if !has_root && nothing_begun && is_charged(token) {
        match (take_over, volume.raw_meta(BEGUN_ANEW)?) {
            (_, Some(_)) => {}
            (true, None) => {
                let said = Bytes::from_static(b"1");
                keep(volume, vec![(BEGUN_ANEW, Some(said))]).await?;
            }
            (false, None) => return Err(missing(context, token)),
        }
    }
    let Some((sequence, root)) = offered else {
        return Ok(if known.is_some() {
            Bootstrap::Current
        } else {
            Bootstrap::New
        });
    };
    let cut_off = pending
        .as_ref()
        .is_some_and(|pending| pending.sequence == sequence && root == Some(pending.root.0));
    if cut_off {
        // Ours: a crash came between its name and its head, and it is finished first.
        return Ok(Bootstrap::Current);
    }
    let known = match known {
        // Nobody has what was published then; the next commit is later.
        Some(known) if has_begun_anew(volume, &known, sequence)? => return Ok(Bootstrap::Current),
        Some(known) => known,
        None => match begin(context, named.as_ref(), sequence, root, take_over).await? {
            Some(begun) => return Ok(begun),
            // Something was written here before anything was published: nothing that is published
            // contains it.
            None => Head::default(),
        },
    };
    // Where ours is newer it is named again at start.
    if judge::is_current(&known, sequence, root.as_ref()) {
        return Ok(Bootstrap::Current);
    }
    let root = root.ok_or_else(|| PublishError::Refused("a later document has no root".into()))?;
    let (record, _) = context.node.fetcher.load_root(&root, &volume.key()).await?;
    let nothing_here = pending.is_none() && volume.activity().is_none();
    if nothing_here && judge::may_follow(&known, &record, writer(volume).await?, false) {
        return Ok(Bootstrap::Behind);
    }
    if !take_over {
        return Err(conflict(sequence, Some(&root)));
    }
    let document = named.filter(|named| named.usage.root == Some(root));
    let theirs = Theirs {
        root,
        record,
        document: document.map(|named| named.document),
    };
    supersede(context, &known, pending.as_ref(), &theirs).await?;
    Ok(Bootstrap::Current)
}

/// Whether the chain itself shows that something was published: where each commit is charged, usage never falls.
fn is_charged(token: &TokenInfo) -> bool {
    token.accounting == Accounting::Additive && token.usage_bytes > 0
}

fn missing(context: &Context, token: &TokenInfo) -> PublishError {
    PublishError::Missing(format!(
        "the chain counts {} bytes that were stored, and no node has the record of its name {}: name the node that has it \
         by --node, or try again when it is back; where it was another wallet, or another program, that stored them, \
         begin anew with --token {} --take-over",
        token.usage_bytes,
        context.key.name(),
        token.id
    ))
}

/// Whether this folder has begun anew behind `sequence`, and published nothing since.
fn has_begun_anew(volume: &Volume, known: &Head, sequence: u64) -> Result<bool, PublishError> {
    let is_behind = known.root.is_none() && sequence <= known.sequence;
    Ok(is_behind && volume.raw_meta(BEGUN_ANEW)?.is_some())
}

/// What another machine published.
struct Theirs {
    root: Cid,
    record: Root,
    document: Option<Cid>,
}

/// Makes what another machine published the parent of our next commit, which then comes in any
/// case. Its blocks stay for as long as those of any old root.
async fn supersede(
    context: &Context,
    known: &Head,
    pending: Option<&Pending>,
    theirs: &Theirs,
) -> Result<(), PublishError> {
    let volume = &context.volume;
    let sequence = theirs.record.sequence;
    let given = pending.map_or(0, |pending| pending.sequence + 1);
    let head = Head {
        sequence,
        root: Some(CidBytes(theirs.root)),
        document: theirs.document.map(CidBytes),
        next: known.next.max(given).max(sequence + 1),
        ..known.clone()
    };
    let mut grace: Grace = volume.meta("grace")?.unwrap_or_default();
    let unnamed = pending.map(|pending| pending.root);
    for cid in [known.root, known.document, unnamed].into_iter().flatten() {
        grace.add(cid.0, context.now_s());
    }
    let versions = volume.meta::<Versions>("versions")?.unwrap_or_default();
    let versions = versions.with(&Versions::of(&theirs.record));
    tracing::warn!(
        token = %volume.key().token.token, root = %theirs.root, sequence,
        "taken over: what is here is published over what another machine wrote"
    );
    let values = vec![
        ("head", Some(head.to_bytes())),
        ("versions", Some(versions.to_bytes())),
        (PENDING, None),
        ("grace", Some(grace.to_bytes())),
        (TAKEN_OVER, Some(Bytes::from_static(b"1"))),
    ];
    keep(volume, values).await
}

/// The newer of what the record of `name` and the chain say, as sequence and root. Who takes over goes on from the
/// record where the two part.
pub(super) fn newest(
    named: Option<&Usage>,
    token: &TokenInfo,
    name: &str,
    take_over: bool,
) -> Result<Option<(u64, Option<Cid>)>, PublishError> {
    let chain = token.published(name).map(|(sequence, root)| {
        let digest = root.map(|root| form::node_of_digest(root.0));
        (sequence, digest)
    });
    match (named, chain) {
        (None, chain) => Ok(chain),
        (Some(usage), None) => Ok(Some((usage.sequence, usage.root))),
        (Some(usage), Some((sequence, root))) => {
            if usage.sequence < sequence {
                // The name was rolled back, or its record was lost; the chain knows better.
                return Ok(Some((sequence, root)));
            }
            if usage.sequence == sequence && usage.root != root && !take_over {
                return Err(PublishError::Refused(format!(
                    "token {}: the name points at another root than the chain has at sequence {sequence}: to go on \
                     from that one, mount with --take-over",
                    token.id
                )));
            }
            Ok(Some((usage.sequence, usage.root)))
        }
    }
}

/// A fresh state folder begins from what was published: tree and head in one, so that no crash
/// leaves one without the other. `None` where the folder is not fresh.
async fn begin(
    context: &Context,
    named: Option<&Named>,
    sequence: u64,
    root: Option<Cid>,
    take_over: bool,
) -> Result<Option<Bootstrap>, PublishError> {
    let volume = &context.volume;
    let mut head = Head {
        sequence,
        root: root.map(CidBytes),
        document: named.map(|n| CidBytes(n.document)),
        uploads: named.map_or(0, |n| n.usage.uploads),
        next: sequence + 1,
        ..Head::default()
    };
    let Some(root) = root else {
        keep(volume, vec![("head", Some(head.to_bytes()))]).await?;
        return Ok(Some(Bootstrap::New));
    };
    let loaded = context.node.fetcher.load_root(&root, &volume.key()).await;
    let (record, header) = match loaded {
        Err(FsError::Lost(_)) if take_over => {
            tracing::warn!(
                token = %volume.key().token.token, %root, sequence,
                "begun anew: nobody has what was published"
            );
            head.root = None;
            let said = Bytes::from_static(b"1");
            let values = vec![("head", Some(head.to_bytes())), (BEGUN_ANEW, Some(said))];
            keep(volume, values).await?;
            return Ok(Some(Bootstrap::New));
        }
        loaded => loaded?,
    };
    head.time_s = made_s(context, &record);
    let header = header.encode()?;
    let versions = Versions::of(&record);
    let values = vec![
        ("head", Some(head.to_bytes())),
        ("header", Some(header.data)),
        ("versions", Some(versions.to_bytes())),
    ];
    let taker = Arc::clone(volume);
    let adopted = blocking(move || taker.adopt_root(&record, values)).await??;
    Ok(adopted.then_some(Bootstrap::Adopted(root)))
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
