//! One commit: an instant of the tree onto the node, and the name onto it.

use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;
use futures::future::try_join_all;

use super::PublishError;
use super::build::build;
use super::charged::{self, Charged};
use super::follow::follow;
use super::gone::next_sequence;
use super::grace::Moment;
use super::head;
use super::heal::{self, heal};
use super::key::Key;
use super::naming::{end_value, put_record, record, refuse_foreign, tell_others};
use super::pending::{Doubted, PENDING, Pending, keep, version};
use super::receipt::Receipts;
use super::state::{self, Head, State};
use super::unfinished::{end_doubts, finish_pending};
use super::upload::{Upload, read_back};
use crate::clock::Clock;
use crate::fetch::Fetcher;
use crate::fetch::source::blocking;
use crate::fs::{Built, Changes, Cut, Volume};
use crate::journal::record::{CidBytes, Record as _};
use crate::names::NameStore;
use crate::names::record::Network;
use crate::pack::header::Header;
use crate::pack::root::Root;
use crate::pack::tree::TreeKind;
use crate::pack::usage::{self, Usage, UsageError};
use crate::pack::{Child, chunk, tree};
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError};
use crate::types::Ino;

/// Where a commit goes.
#[derive(Clone)]
pub struct Node {
    /// What it is called; another node has another name.
    pub label: String,
    /// Blocks.
    pub store: Arc<dyn BlockStore>,
    /// Names.
    pub names: Arc<dyn NameStore>,
    /// Reads what a commit builds upon.
    pub fetcher: Arc<Fetcher>,
    /// The namespace that records name content in.
    pub network: Network,
    /// Other nodes that are to know the name.
    pub others: Vec<Other>,
    /// Whether chunks of large files are sent to it while they are being written: what a node of its own
    /// stores meanwhile is time won, the embedded one has the disk and the processors of who writes.
    pub ahead: bool,
}

/// A node beside the one that is written to.
#[derive(Clone)]
pub struct Other {
    /// What it is called in the log.
    pub label: String,
    /// Its names.
    pub names: Arc<dyn NameStore>,
    /// The namespace of its records.
    pub network: Network,
}

/// What the commits of one volume need.
#[derive(Clone)]
pub struct Context {
    /// The volume.
    pub volume: Arc<Volume>,
    /// Where it goes.
    pub node: Node,
    /// The token's name.
    pub key: Key,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Context {
    /// Wall time, unix seconds.
    pub fn now_s(&self) -> u64 {
        self.clock.wall_s()
    }

    /// Now, by both clocks.
    pub(super) fn moment(&self) -> Moment {
        Moment::now(self.clock.as_ref())
    }
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) sent_blocks: u64,
    pub(super) sent_bytes: u64,
    /// False when nothing differed from what is published.
    pub(super) made: bool,
    /// Files that cannot be published, in one line, where there are any.
    pub(super) stuck: Option<String>,
    /// The node may not have all of the head.
    pub(super) doubted: Option<Doubted>,
}

/// Finishes what a crash interrupted, then publishes what differs.
pub(super) async fn commit(context: &Context, receipts: &Receipts) -> Result<Done, PublishError> {
    finish_pending(context, receipts).await?;
    end_doubts(context, receipts).await?;
    let (head, named_end_s) = newest_head(context).await?;
    heal(context, receipts, heal::PATIENCE).await?;
    let (volume, told) = (Arc::clone(&context.volume), receipts.clone());
    let (cut, changes) = blocking(move || {
        let mut cut = volume.cut()?;
        cut.tell_steps(move || told.note_step());
        let changes = cut.changes()?;
        Ok::<_, PublishError>((Arc::new(cut), Arc::new(changes)))
    })
    .await??;
    // What nobody could be refused waits until there is room for it.
    let used_bytes = cut.used_bytes()?;
    context.volume.admit_late(used_bytes)?;
    if let Some(why) = context.volume.over_quota(used_bytes) {
        return Err(PublishError::OverQuota(why));
    }
    let nothing =
        changes.files.is_empty() && changes.directories.is_empty() && changes.rows.is_empty();
    let taken_over = context.volume.raw_meta(state::TAKEN_OVER)?.is_some();
    if nothing && head.root.is_some() && !taken_over {
        settle(&cut, &changes, Arc::default()).await?;
        reserve_stuck(context, &changes, &Built::default())?;
        State::end_commit(&context.volume, |_| Ok(None)).await?;
        charged::settled(&context.volume).await?;
        let stuck = heal::stuck(&context.volume, !changes.stuck.is_empty()).await?;
        return Ok(Done {
            stuck,
            doubted: Doubted::of(&context.volume)?,
            ..Done::default()
        });
    }

    check_units(context)?;
    let charged = match context.volume.with_quota(|quota| quota.is_additive()) {
        true => Some(begin_charged(context, &head).await?),
        false => None,
    };
    let holder = receipts.is_losing().then(|| Arc::clone(&context.volume));
    let mut upload = Upload::new(Arc::clone(&context.node.store), receipts.clone())
        .beside(charged)
        .held_for(holder);
    let source = context.node.fetcher.source();
    let built = build(&cut, &changes, source, &mut upload).await?;
    let (root, root_block) = build_root(context, &head, &cut, &built, &mut upload).await?;
    let (mut pending, end_s) = prepare(context, &head, &root, root_block, named_end_s)?;
    pending.charge_bytes = charge(context, &pending, upload.built_bytes)?;
    pending.sample = upload.sample().iter().copied().map(CidBytes).collect();
    let volume = &context.volume;
    upload.keep_built()?;
    let kept = vec![(PENDING, Some(pending.to_bytes())), end_value(end_s)];
    keep(volume, kept).await?;
    // What stands above the rest leaves with the last of it.
    upload.finish_with(tops(&pending)).await?;
    pending.unsent = false;
    keep(volume, vec![(PENDING, Some(pending.to_bytes()))]).await?;
    let was_losing = receipts.is_losing();
    let secured = secure_above(context, &pending, &head, receipts).await;
    secured.map_err(|error| match was_losing && is_loss(&error) {
        true => PublishError::Unverified(format!(
            "it loses what it has just taken ({error}): stop its collection (`repo gc`) until this is published"
        )),
        false => error,
    })?;
    name(context, &mut pending, &head).await?;
    let is_stuck = built.files.len() < changes.files.len() || !changes.stuck.is_empty();
    let built = Arc::new(built);
    settle(&cut, &changes, Arc::clone(&built)).await?;
    drop(cut);
    reserve_stuck(context, &changes, &built)?;
    take_as_head(context, &pending, None).await?;
    charged::settled(volume).await?;
    release_old(context, receipts).await?;
    Ok(Done {
        sent_blocks: upload.sent_blocks,
        sent_bytes: upload.sent_bytes,
        made: true,
        stuck: heal::stuck(&context.volume, is_stuck).await?,
        doubted: Doubted::of(volume)?,
    })
}

/// The head, and when the records end that nodes have of it, unix seconds. Where another machine has
/// gone on from it, and nothing here is unpublished, its tree is taken over first.
pub(super) async fn newest_head(context: &Context) -> Result<(Head, u64), PublishError> {
    let head = state::head(&context.volume)?;
    match refuse_foreign(context, &head, None).await {
        Ok(end_s) => Ok((head, end_s)),
        Err(PublishError::Conflict(why)) => match follow(context).await? {
            true => {
                let head = state::head(&context.volume)?;
                let end_s = refuse_foreign(context, &head, None).await?;
                Ok((head, end_s))
            }
            false => Err(PublishError::Conflict(why)),
        },
        Err(error) => Err(error),
    }
}

async fn build_root(
    context: &Context,
    head: &Head,
    cut: &Cut,
    built: &Built,
    upload: &mut Upload,
) -> Result<(Root, Block), PublishError> {
    let volume = &context.volume;
    let mut empty = Vec::new();
    let tree = match built.directories.get(&Ino::ROOT) {
        Some(tree) => *tree,
        None => match cut.published_tree(Ino::ROOT)? {
            Some(tree) => tree,
            None => tree::empty(TreeKind::Directory, &mut |block| empty.push(block))?,
        },
    };
    let table = match (built.table, cut.table()?) {
        (Some(table), _) | (None, Some(table)) => table,
        (None, None) => tree::empty(TreeKind::Table, &mut |block| empty.push(block))?,
    };
    let header = header(volume).await?;
    upload.push(header.clone()).await?;
    for block in empty {
        upload.push(block).await?;
    }
    let versions = state::versions(volume)?;
    let mut root = Root {
        volume: volume.key(),
        sequence: next_sequence(volume, head)?,
        parent: head.root.map(|root| root.0),
        versions: versions.to_map(),
        writer: head::writer(volume).await?,
        time_ns: context.clock.wall_ns(),
        next_inode: cut.next_ino(),
        attr: cut.root_attr()?,
        tree,
        table,
        header: Child::new(header.cid, header.data.len() as u64),
    };
    if let Some(own) = head.own
        && let Some(version) = version(own.sequence, &own.root.0)
    {
        let writer = root.writer;
        root.note(writer, version);
    }
    let told = cut.used_bytes()?;
    if root.usage() != told {
        tracing::warn!(
            told,
            built = root.usage(),
            "the charge of the tree differs from what was counted"
        );
    }
    let block = root.encode()?;
    Ok((root, block))
}

/// The volume's header, made once.
async fn header(volume: &Arc<Volume>) -> Result<Block, PublishError> {
    if let Some(bytes) = volume.raw_meta("header")? {
        return Ok(chunk::leaf(bytes));
    }
    let block = Header::plain(head::random()?).encode()?;
    keep(volume, vec![("header", Some(block.data.clone()))]).await?;
    Ok(block)
}

/// Document and record of a new root, and when the record ends.
fn prepare(
    context: &Context,
    head: &Head,
    root: &Root,
    block: Block,
    named_end_s: u64,
) -> Result<(Pending, u64), PublishError> {
    let quota = context.volume.with_quota(|quota| quota.size_bytes());
    let says = Usage {
        volume: root.volume,
        quota,
        usage: root.usage(),
        uploads: head.uploads + 1,
        cid: Some(root.tree.root.cid),
        root: Some(block.cid),
        sequence: root.sequence,
        updated_s: context.now_s(),
    };
    let document = says
        .sign(context.key.ours()?.signing_key())
        .map_err(|e| PublishError::Refused(e.to_string()))?;
    let refused = |e: UsageError| PublishError::Refused(e.to_string());
    let document = Bytes::from(document);
    let document_block = usage::block(&document).map_err(refused)?;
    let told = (document_block.cid, root.sequence, 0);
    let (record, end_s) = record(context, context.node.network, told, named_end_s)?;
    let pending = Pending {
        sequence: root.sequence,
        root: CidBytes(block.cid),
        root_bytes: block.data.to_vec().into(),
        document: document.to_vec().into(),
        record: record.into(),
        time_s: context.now_s(),
        uploads: head.uploads + 1,
        charge_bytes: None,
        unsent: true,
        unnamed: true,
        sample: Vec::new(),
        is_file: true,
    };
    Ok((pending, end_s))
}

/// On a contract that counts uploads a commit needs one.
fn check_units(context: &Context) -> Result<(), PublishError> {
    let left = (context.volume).with_quota(|quota| (quota.units_left(), quota.units_on_chain()));
    match left {
        (Some(0), Some(0)) => Err(PublishError::OverQuota(
            "no upload units are left: buy uploads or a larger package; what is here is kept"
                .into(),
        )),
        // It may have taken them already.
        (Some(0), Some(some)) => Err(PublishError::OverQuota(format!(
            "the chain was not seen yet with the charges of all commits, which may take the upload units that are left ({some}): it is tried again; what is here is kept"
        ))),
        _ => Ok(()),
    }
}

/// What is charged already of what the next commit builds.
async fn begin_charged(context: &Context, head: &Head) -> Result<Charged, PublishError> {
    let own = head.own.map(|own| own.sequence);
    let next = next_sequence(&context.volume, head)?;
    Charged::begin(&context.volume, own, next).await
}

/// What the commit is charged, where each one is: all that it has built and no other was charged for.
fn charge(
    context: &Context,
    pending: &Pending,
    built_bytes: u64,
) -> Result<Option<u64>, PublishError> {
    let bytes =
        built_bytes + pending.root_bytes.len() as u64 + pending.document_block().data.len() as u64;
    let (additive, left) =
        (context.volume).with_quota(|quota| (quota.is_additive(), quota.chargeable_bytes()));
    if additive && bytes > left {
        return Err(PublishError::OverQuota(format!(
            "the commit takes {bytes} bytes and {left} are left on chain: get a larger package; what \
             is here is kept"
        )));
    }
    Ok(additive.then_some(bytes))
}

/// What stands above the tree: the root and the usage metadata.
pub(super) fn tops(pending: &Pending) -> [Block; 2] {
    let root = Block {
        cid: pending.root.0,
        data: Bytes::copy_from_slice(&pending.root_bytes),
    };
    [root, pending.document_block()]
}

/// Pins a commit whose blocks are on the node, and reads some of them back: root and usage metadata
/// always. What is not as it was acknowledged is sent again by the next try.
async fn secure(
    context: &Context,
    pending: &Pending,
    head: &Head,
    receipts: &Receipts,
) -> Result<(), PublishError> {
    let store = &context.node.store;
    let [root, document] = tops(pending).map(|block| block.cid);
    let check = async {
        pin(context, &[root, document], head, receipts).await?;
        let sample = pending.sample.iter().map(|cid| cid.0);
        let cids: Vec<Cid> = [root, document].into_iter().chain(sample).collect();
        try_join_all(cids.iter().map(|cid| read_back(store, cid))).await?;
        Ok(())
    };
    let result = check.await;
    match &result {
        Ok(()) => receipts.note_verified(),
        Err(error) if is_loss(error) => receipts.note_losing(),
        Err(_) => {}
    }
    result
}

/// [`secure`] above `head`, as it is known to be pinned. Of one that may not be whole on the node nothing is taken
/// for granted: all is walked.
pub(super) async fn secure_above(
    context: &Context,
    pending: &Pending,
    head: &Head,
    receipts: &Receipts,
) -> Result<(), PublishError> {
    let below = match Doubted::of(&context.volume)? {
        Some(_) => &Head::default(),
        None => head,
    };
    secure(context, pending, below, receipts).await
}

/// Whether the node has not, or not as they were, blocks that it acknowledged.
pub(super) fn is_loss(error: &PublishError) -> bool {
    matches!(
        error,
        PublishError::Store(StoreError::Missing(_) | StoreError::Corrupt(..))
            | PublishError::Unverified(_)
    )
}

/// From here on it may be named, and settled, and is never given up.
async fn allow_naming(volume: &Arc<Volume>, pending: &mut Pending) -> Result<(), PublishError> {
    pending.unnamed = false;
    keep(volume, vec![(PENDING, Some(pending.to_bytes()))]).await
}

/// Names a commit that is secured.
pub(super) async fn name(
    context: &Context,
    pending: &mut Pending,
    head: &Head,
) -> Result<(), PublishError> {
    // Building and sending took a while: whose is the name now?
    refuse_foreign(context, head, Some(pending.root.0)).await?;
    allow_naming(&context.volume, pending).await?;
    put_record(context, &pending.record, Some(pending.root.0), head).await?;
    let document = pending.document_cid();
    tell_others(context, (document, pending.sequence, 0)).await;
    Ok(())
}

async fn settle(
    cut: &Arc<Cut>,
    changes: &Arc<Changes>,
    built: Arc<Built>,
) -> Result<(), PublishError> {
    let (cut, changes) = (Arc::clone(cut), Arc::clone(changes));
    Ok(blocking(move || cut.settle(&changes, &built)).await??)
}

/// What a commit could not send is to be paid for by a later one.
fn reserve_stuck(context: &Context, changes: &Changes, built: &Built) -> Result<(), PublishError> {
    let mut stuck = changes.stuck.clone();
    if built.files.len() < changes.files.len() {
        for ino in &changes.files {
            if built.files.get(*ino)?.is_none() {
                stuck.push(*ino);
            }
        }
    }
    Ok(context.volume.reserve_again(stuck)?)
}

/// The commit is the head from here on; the old one goes into grace. One that is not whole on the node is doubted;
/// else what was doubted before is so still.
pub(super) async fn take_as_head(
    context: &Context,
    pending: &Pending,
    doubted: Option<Doubted>,
) -> Result<(), PublishError> {
    let volume = &context.volume;
    let (pending, open) = (pending.clone(), volume.open_without_name());
    let now = context.moment();
    State::end_commit(volume, move |state| {
        state.complete(&pending, doubted.as_ref(), (&open, &now))
    })
    .await
}

/// Lets go of what is due of the old roots. Not before all is settled: what a commit that was cut off holds of a
/// file lies, here, over what an older one has published, and that one's root may be due.
async fn release_old(context: &Context, receipts: &Receipts) -> Result<(), PublishError> {
    let volume = &context.volume;
    let before = state::grace(volume)?;
    let (mut after, now) = (before.clone(), context.moment());
    let store = context.node.store.as_ref();
    after.release(store, &now, || receipts.beat()).await;
    // Others add to it while the node answers.
    State::change(volume, move |state| {
        state.release(&before, &after, &now);
        Ok(())
    })
    .await
}

/// Pins what stands above a tree: its root first. `below` is pinned already: only the difference is walked.
pub(super) async fn pin(
    context: &Context,
    tops: &[Cid],
    below: &Head,
    receipts: &Receipts,
) -> Result<(), PublishError> {
    let store = &context.node.store;
    for (cid, from) in tops.iter().zip([below.root, below.document]) {
        let from = from.map(|from| from.0);
        // However much there is to pin: while the node comes on, so does the commit.
        let moves = || receipts.beat();
        store.pin_with(cid, from.as_ref(), &moves).await?;
    }
    match store.all_pinned(tops).await? {
        true => Ok(()),
        false => Err(PublishError::Unverified(
            "it does not list a pin that it acknowledged".into(),
        )),
    }
}
