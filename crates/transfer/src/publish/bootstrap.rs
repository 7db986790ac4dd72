//! Where a mount begins: the newest commit among this state folder, the name and the chain, and what of that is to be gone on
//! from here.
//!
//! Invariant: a mount begins from nothing older than was seen, here, by the name or on chain; what is here and unpublished is
//! never dropped, and nothing that another machine published is hidden or given up but by who asked for that. Called by
//! `run`.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;

use super::PublishError;
use super::commit::Context;
use super::gone::{Gone, is_charged, lost_document, lost_root, missing};
use super::head::{Named, conflict, look_up, made_s, newest, on_chain, writer};
use super::is_idle;
use super::judge;
use super::pending::{PENDING, Pending, keep};
use super::state::{self, Head, Offered, State, TAKEN_OVER};
use super::writers;
use crate::chain::TokenInfo;
use crate::fetch::source::blocking;
use crate::fs::FsError;
use crate::names::NameError;
use crate::names::record::{Network, Record, commit_of_ipns_sequence};
use crate::pack::header::Header;
use crate::pack::root::Root;
use crate::pack::usage::Usage;
use crate::store::StoreError;

/// A record by another writer that is younger than this makes the mount read-only, seconds.
const FRESH_S: u64 = 600;

/// So many commits at most are taken to have been made since the last one that is known, where a record does not say
/// which one it is of: one a minute for two years.
const UNSEEN: u64 = 1 << 20;

/// What whoever mounts has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// To write although another machine did a moment ago, and to publish what is here over what another one did.
    pub take_over: bool,
    /// To begin anew where nobody has what was published.
    pub begin_anew: bool,
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

/// Finds the newest commit of the volume among this state folder, the name and the chain, and
/// begins from it where this folder is fresh. In a conflict [`Allowed::take_over`] has what is here become the next
/// commit, over the other one's.
///
/// # Errors
/// The node does not answer; what it gives is refused; it has not got what was published:
/// [`PublishError::Missing`]; two machines wrote: [`PublishError::Conflict`].
pub async fn bootstrap(
    context: &Context,
    token: &TokenInfo,
    allowed: Allowed,
) -> Result<Bootstrap, PublishError> {
    let found = find(context, token, allowed).await?;
    Ok(match (&found, recent(context)?) {
        (Bootstrap::Current | Bootstrap::Adopted(_), Some(reason)) if !allowed.take_over => {
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
    let Some(head) = state::known_head(volume)? else {
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
    allowed: Allowed,
) -> Result<Bootstrap, PublishError> {
    let volume = &context.volume;
    let known = state::known_head(volume)?;
    let name = context.key.name();
    loop {
        let gone = Gone::of(volume)?;
        let pending: Option<Pending> = volume.meta(PENDING)?;
        let chain = on_chain(token, &name)
            .filter(|(_, root)| gone.as_ref().is_none_or(|gone| !gone.has(root.as_ref())));
        let named = match look_up(context).await {
            // The record is there, and what it leads to is on no node: the chain knows what stood in there.
            Err(PublishError::Store(error @ StoreError::Missing(_)))
                if is_of(context, chain).await? =>
            {
                tracing::warn!(token = %token.id, %error, "what the name leads to is gone");
                None
            }
            Err(PublishError::Store(StoreError::Missing(document))) if allowed.begin_anew => {
                let gone = gone.unwrap_or_default();
                let seen = known.as_ref().map_or(0, |known| known.sequence);
                let seen = seen.max(chain.map_or(0, |(sequence, _)| sequence));
                let told = records(context).await?;
                let told = told
                    .iter()
                    .map(|record| commit_of(record).unwrap_or(seen + UNSEEN));
                let sequence = told.max().unwrap_or(seen);
                gone.give_up_document(context, document, sequence).await?;
                continue;
            }
            Err(PublishError::Store(StoreError::Missing(document))) => {
                return Err(lost_document(&name, &document));
            }
            // What says nothing keeps nobody from what the chain has, no more than if it were not there.
            Err(PublishError::Name(error @ NameError::Corrupt(..)))
                if has_root(chain) || allowed.begin_anew =>
            {
                tracing::warn!(token = %token.id, %error, "the name says nothing");
                None
            }
            named => named?,
        };
        let usage = named.as_ref().map(|named| &named.usage);
        let have_parted = newest(usage, chain, false).is_err();
        let offered = match newest(usage, chain, allowed.take_over) {
            Ok(offered) => offered,
            Err(error) => return Err(parted(known.as_ref(), usage, chain).unwrap_or(error)),
        };
        let nothing_begun = known.is_none() && pending.is_none() && gone.is_none();
        if !has_root(offered) && nothing_begun && is_charged(token) {
            match allowed.begin_anew {
                true => Gone::begin_anew(context).await?,
                false => return Err(missing(context, token)),
            }
        }
        // Ours: a crash came between its name and its head, and it is finished first; or it is newer, and named again
        // at start.
        let is_current = |sequence, root: Option<Cid>| {
            let is_it =
                |pending: &Pending| pending.sequence == sequence && root == Some(pending.root.0);
            let is_known = |known: &Head| judge::is_current(known, sequence, root.as_ref());
            pending.as_ref().is_some_and(is_it) || known.as_ref().is_some_and(is_known)
        };
        let newer = offered.filter(|(sequence, root)| !is_current(*sequence, *root));
        let Some((sequence, root)) = newer else {
            let goes_above = |known: &Head| {
                have_parted || gone.as_ref().is_some_and(|gone| gone.is_newest(known))
            };
            if known.as_ref().is_some_and(goes_above) {
                // What is here goes above what it was taken over from.
                let said = Bytes::from_static(b"1");
                keep(volume, vec![(TAKEN_OVER, Some(said))]).await?;
            }
            return Ok(match (offered, &known) {
                (None, None) => Bootstrap::New,
                _ => Bootstrap::Current,
            });
        };
        let Some(root) = root else {
            return begin_empty(context, known.as_ref(), (sequence, named.as_ref())).await;
        };
        match context.node.fetcher.load_root(&root, &volume.key()).await {
            Err(FsError::Lost(_)) if allowed.begin_anew => {
                let gone = gone.unwrap_or_default();
                gone.give_up(context, (sequence, root), pending.as_ref())
                    .await?;
            }
            Err(FsError::Lost(lost)) => return Err(lost_root(sequence, &lost)),
            loaded => {
                let theirs = Theirs::of((sequence, root), loaded?, named)?;
                return go_on(context, known, pending.as_ref(), theirs, allowed.take_over).await;
            }
        }
    }
}

/// Whether all records of the name say no more than the chain does: each is of this commit, or an earlier one. Of a BTNS
/// record that cannot be told.
async fn is_of(context: &Context, chain: Option<(u64, Option<Cid>)>) -> Result<bool, PublishError> {
    let Some((sequence, Some(_))) = chain else {
        return Ok(false);
    };
    let is_older = |record| commit_of(record).is_some_and(|told| told <= sequence);
    Ok(records(context).await?.iter().all(is_older))
}

/// The records that the nodes have of the name.
async fn records(context: &Context) -> Result<Vec<Record>, PublishError> {
    let (name, node) = (context.key.name(), &context.node);
    let mut records = Vec::new();
    match node.names.resolve(&name).await {
        Ok(bytes) => records.extend(Record::verify(&name, &bytes)),
        Err(NameError::Missing(_) | NameError::Corrupt(..)) => {}
        Err(error) => return Err(error.into()),
    }
    for other in &node.others {
        // As far as they say: one that is away says nothing to whoever looks up the name, either.
        if let Ok(bytes) = other.names.resolve(&name).await {
            records.extend(Record::verify(&name, &bytes));
        }
    }
    Ok(records)
}

/// The commit that a record is of, where it says so.
fn commit_of(record: &Record) -> Option<u64> {
    (record.network == Network::Ipfs).then(|| commit_of_ipns_sequence(record.sequence))
}

fn has_root(found: Option<(u64, Option<Cid>)>) -> bool {
    found.is_some_and(|(_, root)| root.is_some())
}

/// Goes on from what another machine published, as far as nothing here is lost by it.
async fn go_on(
    context: &Context,
    known: Option<Head>,
    pending: Option<&Pending>,
    theirs: Theirs,
    take_over: bool,
) -> Result<Bootstrap, PublishError> {
    let volume = &context.volume;
    let known = match known {
        Some(known) => known,
        None if begin(context, &theirs).await? => return Ok(Bootstrap::Adopted(theirs.root)),
        // Something was written here before anything was published: nothing that is published contains it.
        None => Head::default(),
    };
    // Whose take-over has not come to its commit yet has what no root contains.
    let has_more = pending.is_some() || volume.raw_meta(TAKEN_OVER)?.is_some();
    if !has_more
        && volume.activity().is_none()
        && judge::may_follow(&known, &theirs.record, writer(volume).await?, false)
    {
        return Ok(Bootstrap::Behind);
    }
    if !take_over {
        return Err(conflict(theirs.record.sequence, Some(&theirs.root)));
    }
    supersede(context, pending, &theirs).await?;
    Ok(Bootstrap::Current)
}

/// What another machine published.
struct Theirs {
    root: Cid,
    record: Root,
    header: Header,
    /// Its usage document, where the name leads to it: CID and bytes.
    document: Option<(Cid, Bytes)>,
    /// Commits of the volume so far, by what the name says.
    uploads: u64,
}

impl Theirs {
    fn of(
        (sequence, root): (u64, Cid),
        (record, header): (Root, Header),
        named: Option<Named>,
    ) -> Result<Self, PublishError> {
        if record.sequence != sequence {
            return Err(PublishError::Refused(format!(
                "root {root} is of sequence {}, and not {sequence}",
                record.sequence
            )));
        }
        let uploads = named.as_ref().map_or(0, |named| named.usage.uploads);
        let named = named.filter(|named| named.usage.root == Some(root));
        Ok(Self {
            root,
            record,
            header,
            document: named.map(|named| (named.document, named.bytes)),
            uploads,
        })
    }
}

/// Makes what another machine published the parent of our next commit, which then comes in any
/// case. Its blocks stay for as long as those of any old root.
async fn supersede(
    context: &Context,
    pending: Option<&Pending>,
    theirs: &Theirs,
) -> Result<(), PublishError> {
    let volume = &context.volume;
    tracing::warn!(
        token = %volume.key().token.token, root = %theirs.root, sequence = theirs.record.sequence,
        "taken over: what is here is published over what another machine wrote"
    );
    let document = theirs.document.as_ref().map(|(cid, _)| *cid);
    let (root, record) = (theirs.root, theirs.record.clone());
    let (pending, now) = (pending.cloned(), context.moment());
    let seen = writers::seen(context);
    State::end_commit(volume, move |state| {
        state.also(seen);
        Ok(state.supersede((root, &record, document), pending.as_ref(), &now))
    })
    .await
}

/// Two machines published one sequence, and the name says the one and the chain the other: whoever has either is told.
fn parted(
    known: Option<&Head>,
    named: Option<&Usage>,
    chain: Option<(u64, Option<Cid>)>,
) -> Option<PublishError> {
    let known = known.map(|known| (known.sequence, known.root.map(|root| root.0)))?;
    let (named, chain) = (named.map(|usage| (usage.sequence, usage.root))?, chain?);
    let other = match (known == named, known == chain) {
        (true, false) => chain,
        (false, true) => named,
        _ => return None,
    };
    Some(conflict(other.0, other.1.as_ref()))
}

/// A fresh state folder begins behind a first document, which has no root.
async fn begin_empty(
    context: &Context,
    known: Option<&Head>,
    (sequence, named): (u64, Option<&Named>),
) -> Result<Bootstrap, PublishError> {
    if known.is_some() {
        let why = "a later document has no root";
        return Err(PublishError::Refused(why.into()));
    }
    let document = named.map(|named| named.document);
    let uploads = named.map_or(0, |named| named.usage.uploads);
    State::change(&context.volume, move |state| {
        state.begin_empty(sequence, document, uploads);
        Ok(())
    })
    .await?;
    Ok(Bootstrap::New)
}

/// A fresh state folder begins from what was published: tree and head in one, so that no crash
/// leaves one without the other. False where the folder is not fresh.
async fn begin(context: &Context, theirs: &Theirs) -> Result<bool, PublishError> {
    let volume = &context.volume;
    let record = &theirs.record;
    let mut values = State::begin(&Offered {
        root: theirs.root,
        record: record.clone(),
        header: theirs.header.encode()?.data,
        document: theirs.document.clone(),
        uploads: Some(theirs.uploads),
        time_s: made_s(context, record),
    })?;
    values.push(writers::seen(context));
    let (taker, tree) = (Arc::clone(volume), record.clone());
    Ok(blocking(move || taker.adopt_root(&tree, values)).await??)
}
