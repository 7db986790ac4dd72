//! Verifies everything published of a token on its node; uploads lost blocks that are still here.
//!
//! Invariant: a block reported as damaged was requested and did not match its CID; a node that does
//! not answer is reported as that. The node must not search its network for each block: missing
//! ones are searched at the end, concurrently ([`search`]). Each block is checked once, however
//! often a tree repeats it. Memory is bounded by a directory's pages, the losses, and 16 bytes per
//! block and directory.

mod drive;
mod plan;
mod search;

use std::collections::HashSet;
use std::sync::Arc;

use ::cid::Cid;
use bytes::Bytes;
use futures::StreamExt;

use self::plan::{Missing, Tree, Use, Work};
use super::published::published;
use super::trees::{TWICE, Trees};
use crate::context::MountContext;
use crate::control::Amount;
use crate::control::Report;
use crate::fetch::remake::{Of, remade};
use crate::fs::Volume;
use crate::pack::entry::{Entry, Kind};
use crate::pack::tree::{self, TreeKind};
use crate::pack::{PackError, dagpb, file};
use crate::status::{DamagedBlock, FsckAnswer};
use crate::store::retry::{Policy, RetryStore};
use crate::store::{Block, BlockStore, BlockStoreExt, StoreError, check_bytes};
use crate::text;
use crate::types::{Ino, TokenId};

const AT_ONCE: usize = 16;
/// Leaves queued before they are read.
const NOTED: usize = 256;
/// Directory entries checked at one time.
const STEP: usize = 512;
/// Directory pages retained for the next entries.
const MOST_NODES: usize = 1024;

/// Checks a token; `repair` also searches losses in the cache and on other nodes. Retries transient
/// failures by `policy`.
pub(super) async fn check(
    ground: &MountContext,
    token: TokenId,
    repair: bool,
    policy: Policy,
    tell: Report<'_>,
) -> anyhow::Result<FsckAnswer> {
    let published = published(ground, token).await?;
    let mut check = Check {
        store: Arc::new(RetryStore::new(
            Arc::clone(&ground.parts.node.store),
            policy,
        )),
        ground,
        volume: published.volume,
        repair,
        tell,
        total_bytes: published.record.usage(),
        seen: HashSet::new(),
        nodes: HashSet::new(),
        trees: Trees::default(),
        work: Vec::new(),
        leaves: Vec::new(),
        lost: Vec::new(),
        damaged: HashSet::new(),
        answer: FsckAnswer {
            token,
            blocks: 0,
            bytes: 0,
            damaged: Vec::new(),
            repaired: 0,
        },
    };
    let record = &published.record;
    let named = published.root.cid;
    let top = Use::of("");
    let tops = [Some(published.root), published.document];
    let mut roots = Vec::new();
    for block in tops.into_iter().flatten() {
        roots.push(block.cid);
        // They are at hand, wherever they came from.
        check.read(&block.cid, &top.here(block.data), None).await?;
    }
    check.read(&record.header.cid, &top, None).await?;
    if let Some((sequence, root)) = published.ours
        && sequence >= record.sequence
        && root != named
    {
        let reason = format!(
            "it was published from here last, at sequence {sequence}, and the name leads to root {} at sequence {}: \
             `pxfs flush` has it named again, or says why not",
            named, record.sequence
        );
        check.note(&top, &root, reason);
    }
    let below = top.in_directory(Ino::ROOT, &record.tree);
    let trees = [
        Tree::new(Use::of("links"), TreeKind::Table, record.table),
        Tree::new(below, TreeKind::Directory, record.tree),
    ];
    check.work.extend(trees.map(Work::Tree));
    while check.go_on().await? {}
    check.pins(&roots).await?;
    check.settle().await?;
    Ok(check.answer)
}

struct Check<'a> {
    store: Arc<dyn BlockStore>,
    ground: &'a MountContext,
    volume: Option<Arc<Volume>>,
    repair: bool,
    tell: Report<'a>,
    /// An estimate of the total.
    total_bytes: u64,
    /// Valid blocks, by digest prefix.
    seen: HashSet<u128>,
    /// Nodes of the current content, and the bytes below each.
    nodes: HashSet<(u128, u64)>,
    trees: Trees,
    work: Vec<Work>,
    /// Leaves to read.
    leaves: Vec<(Cid, Use)>,
    lost: Vec<Missing>,
    /// Inodes that have lost something.
    damaged: HashSet<Ino>,
    answer: FsckAnswer,
}

impl Check<'_> {
    /// Does the next piece of work; false at the end.
    async fn go_on(&mut self) -> anyhow::Result<bool> {
        if self.leaves.len() >= NOTED || (self.work.is_empty() && !self.leaves.is_empty()) {
            self.read_leaves().await?;
            return Ok(true);
        }
        match self.work.pop() {
            Some(Work::Tree(tree)) => self.tree(tree).await?,
            Some(Work::Part(what, place)) => self.part(what, place).await?,
            None if self.lost.is_empty() => return Ok(false),
            None => self.search().await?,
        }
        Ok(true)
    }

    /// Reads a block. If it is lost, notes that with the `work` that waits for it.
    async fn read(
        &mut self,
        cid: &Cid,
        what: &Use,
        work: Option<Work>,
    ) -> anyhow::Result<Option<Bytes>> {
        let fetched = get(&self.store, cid).await?;
        self.take(cid, what, work, fetched).await
    }

    async fn take(
        &mut self,
        cid: &Cid,
        what: &Use,
        work: Option<Work>,
        fetched: Result<Bytes, String>,
    ) -> anyhow::Result<Option<Bytes>> {
        let reason = match fetched {
            Ok(data) => {
                self.count(cid, &data);
                return Ok(Some(data));
            }
            Err(reason) => reason,
        };
        if self.repair
            && let Some(data) = self.held(cid, what).await?
        {
            self.put_again(cid, &data).await?;
            return Ok(Some(data));
        }
        self.lost.push(Missing {
            cid: *cid,
            what: what.clone(),
            reason,
            work,
        });
        Ok(None)
    }

    fn count(&mut self, cid: &Cid, data: &Bytes) {
        if self.seen.insert(short(cid)) {
            self.answer.blocks += 1;
            self.answer.bytes += data.len() as u64;
            let lost = match self.lost.len() {
                0 => String::new(),
                lost => format!(", {lost} missing"),
            };
            let what = format!("checking: {} blocks{lost}", self.answer.blocks);
            (self.tell)(&what, Amount::of_about(self.answer.bytes, self.total_bytes));
        }
    }

    async fn put_again(&mut self, cid: &Cid, data: &Bytes) -> anyhow::Result<()> {
        let block = Block {
            cid: *cid,
            data: data.clone(),
        };
        self.store.put_many(&[block]).await?;
        self.seen.insert(short(cid));
        self.answer.repaired += 1;
        Ok(())
    }

    fn note(&mut self, what: &Use, cid: &Cid, reason: String) {
        self.damaged.extend(what.ino);
        let path = match &*what.path {
            b"" => ".".to_owned(),
            path => text::path(path),
        };
        self.answer.damaged.push(DamagedBlock {
            path,
            cid: cid.to_string(),
            reason,
        });
    }

    /// A block that this machine has, or can make.
    async fn held(&self, cid: &Cid, what: &Use) -> anyhow::Result<Option<Bytes>> {
        if what.data.is_some() {
            return Ok(what.data.clone());
        }
        let source = self.ground.fetcher.source();
        let (of, size) = what.of.unwrap_or((*cid, None));
        let cached = source.cached(cid, &of, size, what.chunk).await?;
        if cached.is_some() {
            return Ok(cached);
        }
        if let Ok(Some(page)) = tree::empty_page(cid) {
            return Ok(Some(page.data));
        }
        let made = match what.ino {
            Some(ino) => Of::what(ino, of, size, what.chunk),
            None => Some(Of::Table),
        };
        let (Some(volume), Some(made)) = (&self.volume, made) else {
            return Ok(None);
        };
        let deadline = tokio::time::Instant::now() + search::PATIENCE;
        match remade(source, volume, made, cid, deadline).await {
            Ok(page) => Ok(page),
            Err(error) => {
                tracing::debug!(%error, block = %cid, "a block cannot be made again");
                Ok(None)
            }
        }
    }

    /// Checks a tree's next entries, then queues the rest and its directories.
    async fn tree(&mut self, mut tree: Tree) -> anyhow::Result<()> {
        let Some(entries) = self.entries(&mut tree).await? else {
            return Ok(());
        };
        let (mut below, mut files) = (Vec::new(), Vec::new());
        for entry in &entries {
            let what = tree.what.below(tree.kind, entry);
            match entry.inode.as_ref().map(|inode| &inode.kind) {
                // Also one reported as damaged: it may be back.
                Some(Kind::Directory(found)) => match self.trees.is_new(found) {
                    true => {
                        let what = what.in_directory(entry.ino, found);
                        below.push(Work::Tree(Tree::new(what, TreeKind::Directory, *found)));
                    }
                    false => self.note(&what, &found.root.cid, TWICE.to_owned()),
                },
                Some(Kind::File { content, size, .. }) => {
                    let what = what.in_file(content.cid, *size, None);
                    files.push(Work::Part(what, file::Place::top(&content.cid, *size)));
                }
                Some(Kind::Symlink(target)) => {
                    let (block, _) = dagpb::symlink(target)?;
                    self.read(&block.cid, &what.here(block.data), None).await?;
                }
                _ => {}
            }
        }
        self.work.extend(below.into_iter().rev());
        if let Some(last) = entries.last().filter(|_| entries.len() == STEP) {
            tree.after = Some(last.key.clone());
            self.work.push(Work::Tree(tree));
        }
        self.work.extend(files.into_iter().rev());
        Ok(())
    }

    /// Up to [`STEP`] entries; `None` if a page is lost or refused.
    async fn entries(&mut self, tree: &mut Tree) -> anyhow::Result<Option<Vec<Entry>>> {
        if tree.held.len() > MOST_NODES {
            tree.held.clear();
        }
        loop {
            let after = tree.after.as_deref();
            let scanned = tree::scan(tree.kind, &tree.tree, after, STEP, &tree.held);
            let (of, what) = (tree.tree.root.cid, tree.what.clone());
            let needed = match scanned {
                Ok(entries) => return Ok(Some(entries)),
                Err(PackError::Need(needed)) => needed,
                Err(error) => {
                    self.note(&what, &of, error.to_string());
                    return Ok(None);
                }
            };
            if needed.is_empty() || needed.iter().any(|cid| tree.held.contains_key(cid)) {
                self.note(&what, &of, "a tree of blocks without an end".to_owned());
                return Ok(None);
            }
            for cid in needed {
                let Some(data) = self.read(&cid, &what, Some(tree.again())).await? else {
                    return Ok(None);
                };
                tree.held.insert(cid, data);
            }
        }
    }

    /// A node of a content, or a leaf, which is queued. Each block is checked once, also of holes
    /// and other repetitions.
    async fn part(&mut self, what: Use, place: file::Place) -> anyhow::Result<()> {
        let cid = *place.cid();
        let (content, size) = what.of.unwrap_or((cid, None));
        if size == Some(place.bytes()) {
            // A content begins: they are checked one after another.
            self.nodes.clear();
        }
        if place.is_chunk() {
            match place.check_leaf() {
                Err(error) => self.note(&what, &content, error.to_string()),
                Ok(()) if self.seen.contains(&short(&cid)) => {}
                Ok(()) => {
                    let is_noted = |(noted, by): &(Cid, Use)| *noted == cid && by.path == what.path;
                    if !self.leaves.last().is_some_and(is_noted) {
                        let chunk = Some(place.first_chunk());
                        self.leaves.push((cid, Use { chunk, ..what }));
                    }
                }
            }
            return Ok(());
        }
        if !self.nodes.insert((short(&cid), place.bytes())) {
            return Ok(());
        }
        let again = Work::Part(what.clone(), place.clone());
        let Some(data) = self.read(&cid, &what, Some(again)).await? else {
            return Ok(());
        };
        match place.children(&data) {
            Ok(children) => {
                let children = children.into_iter().rev();
                let children = children.map(|place| Work::Part(what.clone(), place));
                self.work.extend(children);
            }
            Err(error) => self.note(&what, &content, error.to_string()),
        }
        Ok(())
    }

    /// Resumes work that waited for a block.
    fn resume(&mut self, work: Option<Work>) {
        if let Some(Work::Part(_, place)) = &work {
            self.nodes.remove(&(short(place.cid()), place.bytes()));
        }
        self.work.extend(work);
    }

    /// Reads the queued leaves, some at a time.
    async fn read_leaves(&mut self) -> anyhow::Result<()> {
        let store = Arc::clone(&self.store);
        let mut fetched = futures::stream::iter(std::mem::take(&mut self.leaves))
            .map(|(cid, what)| {
                let store = Arc::clone(&store);
                async move { (cid, what, get(&store, &cid).await) }
            })
            .buffered(AT_ONCE);
        while let Some((cid, what, data)) = fetched.next().await {
            self.take(&cid, &what, None, data?).await?;
        }
        Ok(())
    }

    async fn pins(&mut self, roots: &[Cid]) -> anyhow::Result<()> {
        let pinned = self.store.pinned(Some(roots)).await?;
        for root in roots.iter().filter(|root| !pinned.contains(root)) {
            if self.repair && self.answer.damaged.is_empty() {
                // It ends by itself; the volume's size decides when.
                self.ground.parts.node.store.pin(root, None).await?;
                self.answer.repaired += 1;
            } else {
                self.note(&Use::of(""), root, "is not pinned".to_owned());
            }
        }
        Ok(())
    }
}

/// The node's block, or why it is lost; fails if the node does not answer.
async fn get(store: &Arc<dyn BlockStore>, cid: &Cid) -> Result<Result<Bytes, String>, StoreError> {
    told(cid, store.get_local(cid).await)
}

/// The block, or why it is lost; fails if that is unknown.
fn told(cid: &Cid, given: Result<Bytes, StoreError>) -> Result<Result<Bytes, String>, StoreError> {
    let data = given.and_then(|data| check_bytes(cid, &data).map(|()| data));
    match data {
        Ok(data) => Ok(Ok(data)),
        Err(StoreError::Missing(_)) => Ok(Err("is missing".to_owned())),
        Err(error @ StoreError::Corrupt(..)) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

fn short(cid: &Cid) -> u128 {
    let begin = cid.hash().digest().iter().take(16);
    begin.fold(0, |all, byte| all << 8 | u128::from(*byte))
}
