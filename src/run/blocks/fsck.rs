//! Reads all that is published of a token from its node, and verifies it; puts again what is lost and held
//! here.
//!
//! Invariant: a block that is told as damaged was asked for, and did not come as its CID says; a node
//! that does not answer is told as that. Memory is bounded by a directory's pages, and 16 bytes a block and a directory.
//! Called by `blocks`.

use std::collections::HashSet;
use std::sync::Arc;

use ::cid::Cid;
use bytes::Bytes;
use futures::StreamExt;

use super::published;
use super::trees::{TWICE, Trees};
use crate::fetch::source::Held;
use crate::pack::cid::{self as form, Kind as Form};
use crate::pack::entry::{Entry, Kind, TreeRef};
use crate::pack::holes::Holes;
use crate::pack::tree::{self, TreeKind};
use crate::pack::{PackError, chunk, dagpb, file};
use crate::run::ground::Ground;
use crate::run::leave::Tell;
use crate::status::{DamagedBlock, FsckAnswer};
use crate::store::retry::{Policy, RetryStore};
use crate::store::{Block, BlockStore, StoreError, check_bytes};
use crate::types::{Ino, TokenId};

/// Leaves that are read at one time.
const AT_ONCE: usize = 16;
/// Entries of a directory, and chunks of a file, that are looked at at one time.
const STEP: u64 = 512;
/// Nodes of a file that are kept for its next chunks.
const MOST_NODES: usize = 1024;

/// Checks a token; with `repair` what is lost is looked for in the cache and on the other nodes. What fails for the
/// moment is tried again by `policy`.
pub(super) async fn check(
    ground: &Ground,
    token: TokenId,
    repair: bool,
    policy: Policy,
    tell: Tell<'_>,
) -> anyhow::Result<FsckAnswer> {
    let published = published(ground, token).await?;
    let mut check = Check {
        store: Arc::new(RetryStore::new(
            Arc::clone(&ground.parts.node.store),
            policy,
        )),
        ground,
        repair,
        tell,
        seen: HashSet::new(),
        trees: Trees::default(),
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
    let tops = [Some(published.root), published.document];
    let mut roots = Vec::new();
    for top in tops.into_iter().flatten() {
        roots.push(top.cid);
        // They are at hand, from wherever they came.
        check.read(".", &top.cid, Use::here(top.data)).await?;
    }
    check.read(".", &record.header.cid, Use::default()).await?;
    if let Some((sequence, root)) = published.ours
        && sequence >= record.sequence
        && root != named
    {
        let reason = format!(
            "it was published from here last, at sequence {sequence}, and the name leads to root {} at sequence {}: \
             `pxfs flush` has it named again, or says why not",
            named, record.sequence
        );
        check.note(".", &root, reason);
    }
    let mut left = vec![(String::new(), TreeKind::Directory, record.tree)];
    left.push(("links".to_owned(), TreeKind::Table, record.table));
    while let Some((path, kind, tree)) = left.pop() {
        let below = check.tree(&path, kind, &tree).await?;
        left.extend(
            below
                .into_iter()
                .map(|(path, tree)| (path, TreeKind::Directory, tree)),
        );
    }
    check.pins(&roots).await?;
    Ok(check.answer)
}

/// What a block is needed for: where it may be in the cache.
#[derive(Clone, Default)]
struct Use {
    of: Option<(Cid, u64)>,
    chunk: Option<u64>,
    data: Option<Bytes>,
}

impl Use {
    fn here(data: Bytes) -> Self {
        Self {
            data: Some(data),
            ..Self::default()
        }
    }
}

struct Check<'a> {
    store: Arc<dyn BlockStore>,
    ground: &'a Ground,
    repair: bool,
    tell: Tell<'a>,
    /// By the beginning of their digests: those that are right.
    seen: HashSet<u128>,
    trees: Trees,
    answer: FsckAnswer,
}

impl Check<'_> {
    /// A block; `None` where it is lost, which is noted.
    async fn read(&mut self, path: &str, cid: &Cid, what: Use) -> anyhow::Result<Option<Bytes>> {
        let fetched = get(&self.store, cid).await?;
        self.take(path, cid, what, fetched).await
    }

    /// What became of a block that was asked for.
    async fn take(
        &mut self,
        path: &str,
        cid: &Cid,
        what: Use,
        fetched: Result<Bytes, String>,
    ) -> anyhow::Result<Option<Bytes>> {
        let reason = match fetched {
            Ok(data) => {
                if self.seen.insert(short(cid)) {
                    self.answer.blocks += 1;
                    self.answer.bytes += data.len() as u64;
                    (self.tell)("checking", 0);
                }
                return Ok(Some(data));
            }
            Err(reason) => reason,
        };
        let held = match self.repair {
            true => self.held(cid, what).await?,
            false => Ok(None),
        };
        if let Ok(Some(data)) = held {
            let block = Block {
                cid: *cid,
                data: data.clone(),
            };
            self.store.put_many(&[block]).await?;
            self.answer.repaired += 1;
            return Ok(Some(data));
        }
        match held {
            Ok(_) => self.note(path, cid, reason),
            Err(away) => {
                let reason = format!("{reason}, and who may have it does not say: {away}");
                self.note(path, cid, reason);
            }
        }
        Ok(None)
    }

    fn note(&mut self, path: &str, cid: &Cid, reason: String) {
        self.answer.damaged.push(DamagedBlock {
            path: path.to_owned(),
            cid: cid.to_string(),
            reason,
        });
    }

    /// A block as the cache has it, another node, or a gateway; or which of those does not say.
    async fn held(
        &self,
        cid: &Cid,
        what: Use,
    ) -> anyhow::Result<Result<Option<Bytes>, StoreError>> {
        if let Some(data) = what.data {
            return Ok(Ok(Some(data)));
        }
        let source = self.ground.fetcher.source();
        let (of, size) = what.of.map_or((*cid, None), |(of, size)| (of, Some(size)));
        let cached = source.cached(cid, &of, size, what.chunk).await?;
        if cached.is_some() {
            return Ok(Ok(cached));
        }
        Ok(match self.ground.parts.node.reads.get_near(cid).await {
            Ok(data) => Ok(check_bytes(cid, &data).is_ok().then_some(data)),
            Err(StoreError::Missing(_) | StoreError::Corrupt(..)) => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// The pages of a tree and the contents in it; the directories below.
    async fn tree(
        &mut self,
        path: &str,
        kind: TreeKind,
        tree: &TreeRef,
    ) -> anyhow::Result<Vec<(String, TreeRef)>> {
        let mut below = Vec::new();
        let mut held = Held::new();
        let mut after: Option<Bytes> = None;
        loop {
            let shown = if path.is_empty() { "." } else { path };
            let limit = usize::try_from(STEP)?;
            let ask = |held: &Held| tree::scan(kind, tree, after.as_deref(), limit, held);
            let use_of = |_: &Cid| Use::default();
            let Some(entries) = self
                .solve(shown, &tree.root.cid, &mut held, use_of, ask)
                .await?
            else {
                return Ok(below);
            };
            let Some(last) = entries.last() else { break };
            after = Some(last.key.clone());
            for entry in entries {
                let path = name(path, kind, &entry);
                match entry.inode.map(|inode| inode.kind) {
                    // Also what is told as damaged: it may be there again.
                    Some(Kind::Directory(tree)) => match self.trees.is_new(&tree) {
                        true => below.push((path, tree)),
                        false => self.note(&path, &tree.root.cid, TWICE.to_owned()),
                    },
                    Some(Kind::File {
                        content,
                        size,
                        holes,
                    }) => self.file(&path, &content.cid, size, &holes).await?,
                    Some(Kind::Symlink(target)) => {
                        let (block, _) = dagpb::symlink(&target)?;
                        self.read(&path, &block.cid, Use::here(block.data)).await?;
                    }
                    _ => {}
                }
            }
        }
        Ok(below)
    }

    /// Asks `pack` with the blocks in `held` until it needs no more; `None` where one is lost, or refused.
    async fn solve<T>(
        &mut self,
        path: &str,
        of: &Cid,
        held: &mut Held,
        use_of: impl Fn(&Cid) -> Use,
        ask: impl Fn(&Held) -> Result<T, PackError>,
    ) -> anyhow::Result<Option<T>> {
        loop {
            let needed = match ask(held) {
                Ok(answer) => return Ok(Some(answer)),
                Err(PackError::Need(needed)) => needed,
                Err(error) => {
                    self.note(path, of, error.to_string());
                    return Ok(None);
                }
            };
            if needed.is_empty() || needed.iter().any(|cid| held.contains_key(cid)) {
                self.note(path, of, "a tree of blocks without an end".to_owned());
                return Ok(None);
            }
            for cid in needed {
                let Some(data) = self.read(path, &cid, use_of(&cid)).await? else {
                    return Ok(None);
                };
                held.insert(cid, data);
            }
        }
    }

    /// A content: of each hole one leaf, since all of them are one.
    async fn file(
        &mut self,
        path: &str,
        content: &Cid,
        size: u64,
        holes: &Holes,
    ) -> anyhow::Result<()> {
        let what = |chunk| Use {
            of: Some((*content, size)),
            chunk: Some(chunk),
            data: None,
        };
        if form::kind(content) == Ok(Form::Leaf) {
            self.read(path, content, what(0)).await?;
            return Ok(());
        }
        let count = chunk::count(size);
        let mut held = Held::new();
        let mut first = 0;
        while first < count {
            let mut runs = holes.runs().iter().filter(|run| run.end > first);
            let end = match runs.next() {
                // The last chunk of a hole stands for all of it.
                Some(run) if run.start <= first => {
                    first = run.end - 1;
                    run.end
                }
                Some(run) => run.start,
                None => count,
            };
            let end = end.min(count).min(first + STEP);
            if held.len() > MOST_NODES {
                held.clear();
            }
            let ask = |held: &Held| file::leaves(content, size, first..end, held);
            let node = |_: &Cid| Use::default();
            let Some(leaves) = self.solve(path, content, &mut held, node, ask).await? else {
                return Ok(());
            };
            let store = Arc::clone(&self.store);
            let mut fetched = futures::stream::iter(leaves)
                .map(|(chunk, cid)| {
                    let store = Arc::clone(&store);
                    async move { (chunk, cid, get(&store, &cid).await) }
                })
                .buffered(AT_ONCE);
            while let Some((chunk, cid, data)) = fetched.next().await {
                self.take(path, &cid, what(chunk), data?).await?;
            }
            first = end;
        }
        Ok(())
    }

    /// Whether what was read is held.
    async fn pins(&mut self, roots: &[Cid]) -> anyhow::Result<()> {
        if self.store.all_pinned(roots).await? {
            return Ok(());
        }
        for root in roots {
            if self.store.all_pinned(&[*root]).await? {
                continue;
            }
            if self.repair && self.answer.damaged.is_empty() {
                // It ends by itself: how long it takes is the volume's affair.
                self.ground.parts.node.store.pin(root, None).await?;
                self.answer.repaired += 1;
            } else {
                self.note(".", root, "is not pinned".to_owned());
            }
        }
        Ok(())
    }
}

/// A block, or why it is lost; an error where the node does not answer.
async fn get(store: &Arc<dyn BlockStore>, cid: &Cid) -> Result<Result<Bytes, String>, StoreError> {
    let data = match store.get(cid).await {
        Ok(data) => check_bytes(cid, &data).map(|()| data),
        Err(error) => Err(error),
    };
    match data {
        Ok(data) => Ok(Ok(data)),
        Err(StoreError::Missing(_)) => Ok(Err("is missing".to_owned())),
        Err(error @ StoreError::Corrupt(..)) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The path of an entry below the token's directory.
fn name(path: &str, kind: TreeKind, entry: &Entry) -> String {
    let name = match kind {
        TreeKind::Table => Ino(entry.ino.0).0.to_string(),
        TreeKind::Directory => String::from_utf8_lossy(&entry.key).into_owned(),
    };
    match path {
        "" => name,
        _ => format!("{path}/{name}"),
    }
}

fn short(cid: &Cid) -> u128 {
    let begin = cid.hash().digest().iter().take(16);
    begin.fold(0, |all, byte| all << 8 | u128::from(*byte))
}
