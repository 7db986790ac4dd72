//! The sampler: asks the node, some blocks a minute, whether it still has what is published. A pin
//! proves nothing about blocks that a commit did not change.
//!
//! Invariant: goes round the whole tree, then the inode table, in order; a step asks for [`BLOCKS`]
//! blocks and reads the pages on the way to them, whatever the volume's size. A block that is lost is
//! put again from the cache, else noted. What is marked as damaged already is looked at beside that.
//! Where much may be lost it sweeps: one round without a pause, from the begin. What is doubted is
//! there when a round has found all of it. `task` makes the steps, and has `pinned` look after the pin beside them.
//! Begun by `queue`.

mod ask;
mod pinned;
pub(super) mod task;

use std::time::Duration;

use cid::Cid;
use minicbor::bytes::ByteVec;
use minicbor::{CborLen, Decode, Encode};
use tokio::time::Instant;

use super::PublishError;
use super::commit::Context;
use super::elsewhere::Elsewhere;
use super::heal::{self, look_at_marked};
use super::pending::{Doubted, PENDING, Pending, keep};
use super::receipt::Receipts;
use super::state;
use crate::fetch::source::Held;
use crate::fs::{FsError, Volume};
use crate::journal::record::Record as _;
use crate::pack::chunk;
use crate::pack::cid as form;
use crate::pack::entry::{Entry, Kind, TreeRef};
use crate::pack::root::Root;
use crate::pack::tree::{self, TreeKind};
use crate::pack::usage;
use crate::store::Block;
use crate::types::Ino;
use ask::Need;

/// Blocks that a step asks for.
const BLOCKS: u64 = 32;
/// The same while it sweeps.
const SWEPT_BLOCKS: u64 = 512;
/// How long a step goes on: where the node is slow or far away it asks for less.
const STEP: Duration = Duration::from_secs(30);
/// Steps after which the place is kept.
const KEEP_AFTER: u32 = 16;
/// How long the blocks on the way to a place may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How far the round is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
struct Place {
    /// In the inode table, which comes after the tree.
    #[n(0)]
    table: bool,
    /// The directory, as names from the root.
    #[n(1)]
    dirs: Vec<ByteVec>,
    /// The last entry of it that is done.
    #[n(2)]
    after: Option<ByteVec>,
    /// The first chunk of the next entry that is not done.
    #[n(3)]
    chunk: u64,
}

/// A round under way.
pub(super) struct Sampler {
    place: Place,
    /// Blocks that this step may still ask for.
    left: u64,
    /// How long it may go on, and until when it does.
    pub(super) patience: Duration,
    until: Instant,
    /// Losses found in this step, and what is there again.
    found: u64,
    /// The directory of the place and those above it, from the root.
    above: Vec<Ino>,
    steps: u32,
    /// A round without a pause is under way.
    sweeps: bool,
    /// The node has lost the root: its name record may have gone with it.
    rootless: bool,
    /// The root that was not pinned, and could not be: blocks of it are missing.
    lacking: Option<Cid>,
    /// That is the root of our own last commit.
    bare: bool,
    /// The last round has missed nothing.
    whole: bool,
    /// It is back, and its name record may have gone with it.
    returned: bool,
    /// Something was found in this round that cannot be put again.
    lossy: bool,
    /// Told of what is put again: publishing comes nearer to its end by it.
    receipts: Receipts,
    /// What the round under way is to find whole, as it was at its beginning.
    doubted: Option<Doubted>,
    /// Where what is lost is looked for in this round.
    elsewhere: Elsewhere,
    /// It is the first round since: it brings whoever waits for it nearer to the end.
    confirms: bool,
}

impl Sampler {
    /// Goes on where an earlier run was.
    pub(super) fn begin(volume: &Volume, receipts: Receipts) -> Self {
        Self {
            place: volume.meta("sample").ok().flatten().unwrap_or_default(),
            left: 0,
            patience: STEP,
            until: Instant::now(),
            found: 0,
            above: Vec::new(),
            steps: 0,
            sweeps: false,
            rootless: false,
            lacking: None,
            bare: false,
            whole: false,
            returned: false,
            lossy: false,
            receipts,
            doubted: None,
            elsewhere: Elsewhere::default(),
            confirms: false,
        }
    }

    /// Much may be lost: goes round once without a pause, unless it does already.
    pub(super) fn sweep(&mut self) {
        if !self.sweeps {
            self.begin_sweep();
        }
    }

    fn begin_sweep(&mut self) {
        (self.sweeps, self.lossy) = (true, false);
        self.elsewhere = Elsewhere::default();
        self.place = Place::default();
    }

    /// Whether the next step is to come at once.
    pub(super) fn is_sweeping(&self) -> bool {
        self.sweeps
    }

    /// Whether a root that had gone is back since this was asked last.
    pub(super) fn take_returned(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }

    /// Whether the node is known to lack what this machine has published last.
    pub(super) fn is_bare(&self) -> bool {
        self.bare
    }

    /// A step; how many losses it has found, and damaged entries that may be whole again.
    pub(super) async fn step(&mut self, context: &Context) -> Result<u64, PublishError> {
        let doubted = Doubted::of(&context.volume)?;
        if doubted != self.doubted {
            if doubted.is_some() {
                // Only a round that knew of it from its beginning can tell that all is there.
                self.begin_sweep();
                self.confirms = true;
            }
            self.doubted = doubted;
        }
        (self.left, self.found) = (BLOCKS, 0);
        self.until = Instant::now() + self.patience;
        if self.sweeps {
            self.left = SWEPT_BLOCKS;
        }
        let head = state::known_head(&context.volume)?;
        let Some(cid) = head.and_then(|head| head.root) else {
            return Ok(0);
        };
        self.found += look_at_marked(context, heal::PATIENCE).await?;
        if self.place == Place::default() {
            self.top(context).await?;
        }
        let root = self.root(context, cid.0).await?;
        while self.left > 0 {
            let ended = match self.place.table {
                false => self.directory(context, root.tree).await?,
                true => self.table(context, root.table).await?,
            };
            if ended && self.place == Place::default() {
                self.end_round();
            }
            if ended {
                break;
            }
        }
        self.steps += 1;
        if self.confirms {
            self.receipts.note_found();
        }
        if self.steps.is_multiple_of(KEEP_AFTER) {
            let place = vec![("sample", Some(self.place.to_bytes()))];
            keep(&context.volume, place).await?;
        }
        Ok(self.found)
    }

    /// The root whose tree is looked at: the head; or a commit above it that misses what it did not send. A page that is
    /// lost hides all below it, but not in that one: there it is made anew, of what is known here.
    async fn root(&self, context: &Context, head: Cid) -> Result<Root, PublishError> {
        let pending: Option<Pending> = context.volume.meta(PENDING)?;
        let sent = pending.filter(|pending| !pending.unsent && self.doubted.is_none());
        let block = match sent {
            Some(pending) => Block {
                cid: pending.root.0,
                data: Vec::from(pending.root_bytes).into(),
            },
            None => {
                let source = context.node.fetcher.source();
                let data = source.node(&head, Instant::now() + PATIENCE).await?;
                Block { cid: head, data }
            }
        };
        Ok(Root::decode(&block)?)
    }

    /// Asks for what stands above the tree, all of which is kept here.
    async fn top(&mut self, context: &Context) -> Result<(), PublishError> {
        let head = state::head(&context.volume)?;
        for name in ["root-block", "document", "header"] {
            let Some(data) = context.volume.raw_meta(name)? else {
                continue;
            };
            let named = head.document.filter(|_| name == "document");
            let block = match named.and_then(|cid| usage::block_named(&data, &cid.0)) {
                Some(block) => block,
                None if name == "root-block" => Block {
                    cid: form::node_cid(&data),
                    data,
                },
                None => chunk::leaf(data),
            };
            let cid = block.cid;
            self.left = self.left.saturating_sub(1);
            if !self.has(context, &cid).await? {
                self.put_again(context, block).await?;
                if name == "root-block" {
                    let token = context.volume.key().token.token;
                    tracing::warn!(
                        %token,
                        "the storage node has lost the root: was it emptied? What is here is put again"
                    );
                    self.rootless = true;
                    let head = state::head(&context.volume)?;
                    self.lack(cid, &head);
                    self.sweep();
                }
            }
        }
        Ok(())
    }

    /// All was asked for.
    fn end_round(&mut self) {
        (self.sweeps, self.confirms) = (false, false);
        self.elsewhere = Elsewhere::default();
        self.whole = !std::mem::take(&mut self.lossy);
        if let Some(doubted) = self.doubted.as_ref().filter(|_| self.whole) {
            self.receipts.note_whole(doubted.since);
        }
    }

    /// Goes on in a directory. True when the step has done enough.
    async fn directory(&mut self, context: &Context, root: TreeRef) -> Result<bool, PublishError> {
        let Some(tree) = self.descend(context, root).await? else {
            return Ok(false);
        };
        let ino = self.above.last().copied().unwrap_or(Ino::ROOT);
        let Some(entries) = self
            .entries(context, TreeKind::Directory, ino, tree)
            .await?
        else {
            self.leave();
            return Ok(false);
        };
        if entries.is_empty() {
            self.leave();
            return Ok(false);
        }
        self.walk(context, entries).await
    }

    /// Goes on in the inode table, at whose end the round ends.
    async fn table(&mut self, context: &Context, table: TreeRef) -> Result<bool, PublishError> {
        self.above.clear();
        let entries = self
            .entries(context, TreeKind::Table, Ino::ROOT, table)
            .await?;
        let entries = entries.unwrap_or_default();
        if entries.is_empty() {
            self.place = Place::default();
            return Ok(true);
        }
        self.walk(context, entries).await
    }

    /// Asks for what these entries need, up to the first directory, which it goes down into; the inode
    /// table has none. True when the step has done enough.
    async fn walk(&mut self, context: &Context, entries: Vec<Entry>) -> Result<bool, PublishError> {
        for entry in entries {
            let below = entry.inode.as_ref().map(|inode| &inode.kind);
            if let Some(Kind::Directory(tree)) = below
                && !tree.root.damaged
            {
                self.place.dirs.push(entry.key.to_vec().into());
                self.place.after = None;
                return Ok(false);
            }
            if !self.entry(context, &entry).await? {
                return Ok(true);
            }
            self.place.after = Some(entry.key.to_vec().into());
            if self.left == 0 || self.is_late() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The directory of the place; `None` when it is gone, and the place one above it.
    async fn descend(
        &mut self,
        context: &Context,
        root: TreeRef,
    ) -> Result<Option<TreeRef>, PublishError> {
        let mut tree = root;
        self.above = vec![Ino::ROOT];
        for (depth, name) in self.place.dirs.clone().into_iter().enumerate() {
            let need = Need {
                ino: self.above.last().copied().unwrap_or(Ino::ROOT),
                of: tree.root.cid,
                size: None,
            };
            let lookup = |held: &Held| tree::lookup(TreeKind::Directory, &tree, &name, held);
            let found = match self.solve(context, need, &mut Held::new(), lookup).await {
                Err(PublishError::Local(FsError::Lost(lost))) => {
                    self.note(context, need, &lost).await;
                    // The directory that is left is the one whose page is lost.
                    self.place.dirs.truncate(depth);
                    self.leave();
                    return Ok(None);
                }
                found => found?,
            };
            match found.map(|entry| (entry.ino, entry.inode.map(|inode| inode.kind))) {
                Some((ino, Some(Kind::Directory(below)))) if !below.root.damaged => {
                    self.above.push(ino);
                    tree = below;
                }
                _ => {
                    self.place.dirs.truncate(depth + 1);
                    self.leave();
                    return Ok(None);
                }
            }
        }
        Ok(Some(tree))
    }

    /// The next entries of a tree, whose pages are asked for; `None` when they cannot be read.
    async fn entries(
        &mut self,
        context: &Context,
        kind: TreeKind,
        ino: Ino,
        tree: TreeRef,
    ) -> Result<Option<Vec<Entry>>, PublishError> {
        let limit = usize::try_from(self.left).unwrap_or(1).max(1);
        let after = self.place.after.clone();
        let mut held = Held::new();
        let need = Need {
            ino,
            of: tree.root.cid,
            size: None,
        };
        let scan = |held: &Held| {
            let after = after.as_ref().map(|after| after.as_slice());
            tree::scan(kind, &tree, after, limit, held)
        };
        match self.solve(context, need, &mut held, scan).await {
            Ok(entries) => {
                for page in held.keys() {
                    self.ask(context, need, page, None).await?;
                }
                Ok(Some(entries))
            }
            Err(PublishError::Local(FsError::Lost(lost))) => {
                self.note(context, need, &lost).await;
                Ok(None)
            }
            Err(PublishError::Local(FsError::Damaged(why))) => {
                tracing::warn!(why, "a page of the tree cannot be read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the step has gone on for long enough.
    fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Leaves a directory that is done; the inode table comes after the root.
    fn leave(&mut self) {
        self.place.chunk = 0;
        match self.place.dirs.pop() {
            Some(done) => self.place.after = Some(done),
            None => (self.place.table, self.place.after) = (true, None),
        }
    }
}
