//! A volume's files as one tar archive: with owners, modes, times, extended attributes, holes and
//! hard links.
//!
//! Invariant: a finished archive holds every published name except sockets, which tar cannot hold;
//! each byte was verified. Memory is bounded by a page of entries per folder level, the chunks in
//! flight, 16 bytes a folder, and for files with several names a number each, and a path until the
//! last name. No inode is written more often than the inode table says, and nothing if the declared
//! size does not fit on the disk.

mod header;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use ::cid::Cid;
use anyhow::Context;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::new_file::NewFile;
use super::published::{patient, published};
use super::trees::{TWICE, Trees};
use crate::context::MountContext;
use crate::control::Amount;
use crate::control::Report;
use crate::exit::fail;
use crate::fetch::source::Held;
use crate::pack::chunk::CHUNK_SIZE;
use crate::pack::entry::{Attr, Entry, Inode, Kind, TreeRef, row_key};
use crate::pack::holes::Holes;
use crate::pack::tree::{self, TreeKind};
use crate::pack::{PackError, chunk, file};
use crate::status::ArchiveAnswer;
use crate::store::{BlockStore, BlockStoreExt, StoreError, check_bytes};
use crate::text;
use crate::types::{Ino, TokenId};
use header::{BLOCK, Type};

const AT_ONCE: usize = 16;
/// Folder entries, and file chunks, processed at one time.
const STEP: usize = 512;
const MOST_NODES: usize = 1024;
/// Bytes that are written at one time.
const WRITTEN: usize = 1 << 20;

/// Writes all files of a token's published volume to a new archive.
pub(super) async fn export(
    ground: &MountContext,
    token: TokenId,
    path: &Path,
    tell: Report<'_>,
) -> anyhow::Result<ArchiveAnswer> {
    let published = published(ground, token).await?;
    let record = &published.record;
    let out = NewFile::create(path)?;
    // A few blocks may declare any size.
    out.expect(record.usage())?;
    let mut export = Export {
        store: patient(&ground.parts.node.reads),
        table: record.table,
        rows: Held::new(),
        linked: HashMap::new(),
        trees: Trees::default(),
        out,
        unwritten: Vec::new(),
        tell,
        entries: 0,
        total_bytes: record.usage(),
        answer: ArchiveAnswer {
            token,
            root: published.root.cid.to_string(),
            file: path.display().to_string(),
            blocks: 0,
            bytes: 0,
            left_out: 0,
        },
    };
    export.folder(b"./", &record.attr)?;
    let mut open = vec![Folder::new(b".".to_vec(), record.tree)];
    while let Some(folder) = open.last_mut() {
        let Some(entry) = export.next(folder).await? else {
            open.pop();
            continue;
        };
        let path = [&folder.path[..], b"/", &entry.key[..]].concat();
        let shown = || text::path(&path);
        let below = export.entry(&path, entry).await.with_context(shown)?;
        export.entries += 1;
        open.extend(below.map(|tree| Folder::new(path, tree)));
    }
    export.finish()
}

struct Folder {
    path: Vec<u8>,
    tree: TreeRef,
    /// Read, not yet written.
    entries: VecDeque<Entry>,
    /// The last entry read, and whether it is the very last.
    after: Option<Bytes>,
    is_read: bool,
}

impl Folder {
    fn new(path: Vec<u8>, tree: TreeRef) -> Self {
        Self {
            path,
            tree,
            entries: VecDeque::new(),
            after: None,
            is_read: false,
        }
    }
}

struct Export<'a> {
    store: Arc<dyn BlockStore>,
    /// The inode table's pages.
    table: TreeRef,
    rows: Held,
    /// Files with several names: how many remain, and the first name.
    linked: HashMap<Ino, (u32, Vec<u8>)>,
    trees: Trees,
    out: NewFile<'a>,
    unwritten: Vec<u8>,
    tell: Report<'a>,
    /// Entries in the archive.
    entries: u64,
    /// An estimate of the total.
    total_bytes: u64,
    answer: ArchiveAnswer,
}

impl Export<'_> {
    async fn next(&mut self, folder: &mut Folder) -> anyhow::Result<Option<Entry>> {
        if folder.entries.is_empty() && !folder.is_read {
            let (tree, after) = (folder.tree, folder.after.clone());
            let ask =
                |held: &Held| tree::scan(TreeKind::Directory, &tree, after.as_deref(), STEP, held);
            let shown = || text::path(&folder.path);
            let read = self.solve(&mut Held::new(), ask).await;
            let entries = read.with_context(shown)?;
            folder.is_read = entries.len() < STEP;
            folder.after = entries.last().map(|last| last.key.clone());
            folder.entries = entries.into();
        }
        Ok(folder.entries.pop_front())
    }

    /// Writes one entry; returns the folder to descend into, if it is one.
    async fn entry(&mut self, path: &[u8], entry: Entry) -> anyhow::Result<Option<TreeRef>> {
        let inode = match entry.inode {
            Some(inode) => inode,
            None => {
                let inode = self.row(entry.ino).await?;
                if let Some((left, first)) = self.linked.get_mut(&entry.ino) {
                    let header = header::header(path, &Type::Link(first.clone()), &inode.attr);
                    let Some(fewer) = left.checked_sub(1) else {
                        fail!(
                            Damage,
                            "inode {} has more names than the inode table says",
                            entry.ino.0
                        );
                    };
                    *left = fewer;
                    if fewer == 0 {
                        first.clear();
                        first.shrink_to_fit();
                    }
                    self.write(&header)?;
                    return Ok(None);
                }
                if !matches!(inode.kind, Kind::Socket) {
                    let left = inode.links.saturating_sub(1);
                    let first = if left > 0 { path.to_vec() } else { Vec::new() };
                    self.linked.insert(entry.ino, (left, first));
                }
                inode
            }
        };
        let attr = &inode.attr;
        let kind = match inode.kind {
            Kind::Directory(tree) => {
                refuse_lost(tree.root.damaged)?;
                if !self.trees.is_new(&tree) {
                    fail!(Damage, "{TWICE}");
                }
                self.folder(&[path, b"/"].concat(), attr)?;
                return Ok(Some(tree));
            }
            Kind::File {
                content,
                size,
                holes,
            } => {
                refuse_lost(content.damaged)?;
                self.file(path, attr, (&content.cid, size), &holes).await?;
                return Ok(None);
            }
            Kind::Socket => {
                self.answer.left_out += 1;
                return Ok(None);
            }
            Kind::Symlink(target) => Type::Symlink(target),
            Kind::Fifo => Type::Fifo,
            Kind::CharDevice(number) => Type::CharDevice(number),
            Kind::BlockDevice(number) => Type::BlockDevice(number),
        };
        self.write(&header::header(path, &kind, attr))?;
        Ok(None)
    }

    fn folder(&mut self, path: &[u8], attr: &Attr) -> anyhow::Result<()> {
        self.write(&header::header(path, &Type::Directory, attr))
    }

    /// Writes a file; of a sparse one only the data.
    async fn file(
        &mut self,
        path: &[u8],
        attr: &Attr,
        (content, size): (&Cid, u64),
        holes: &Holes,
    ) -> anyhow::Result<()> {
        let runs = data_runs(size, holes);
        let mut parts: Vec<(u64, u64)> = runs
            .iter()
            .map(|run| {
                let start = run.start * CHUNK_SIZE;
                (start, (run.end * CHUNK_SIZE).min(size) - start)
            })
            .collect();
        let data: u64 = parts.iter().map(|(_, len)| len).sum();
        if data == size {
            self.out.expect(size)?;
            self.write(&header::header(path, &Type::File(size), attr))?;
        } else {
            // A hole at the end must be stated.
            parts.push((size, 0));
            let map = header::map(&parts);
            let stored = map.len() as u64 + data;
            self.out.expect(stored)?;
            self.write(&header::header(path, &Type::Sparse { size, stored }, attr))?;
            self.write(&map)?;
        }
        let mut held = Held::new();
        for run in runs {
            let mut first = run.start;
            while first < run.end {
                let end = run.end.min(first + STEP as u64);
                if held.len() > MOST_NODES {
                    held.clear();
                }
                let ask = |held: &Held| file::leaves(content, size, first..end, held);
                let leaves = self.solve(&mut held, ask).await?;
                self.leaves(leaves, size).await?;
                first = end;
            }
        }
        let last = usize::try_from(data % BLOCK as u64)?;
        header::pad(&mut self.unwritten, last);
        Ok(())
    }

    /// Writes these leaves in order.
    async fn leaves(&mut self, leaves: Vec<(u64, Cid)>, size: u64) -> anyhow::Result<()> {
        let store = Arc::clone(&self.store);
        let mut fetched = futures::stream::iter(leaves)
            .map(|(index, cid)| {
                let store = Arc::clone(&store);
                async move { Ok::<_, StoreError>((index, cid, get(&store, &cid).await?)) }
            })
            .buffered(AT_ONCE);
        while let Some((index, cid, data)) = fetched.try_next().await? {
            if data.len() as u64 != chunk::len(size, index) {
                let why = format!("it is no chunk {index} of a file of {size} bytes");
                return Err(StoreError::Corrupt(cid, why).into());
            }
            self.count(&data);
            self.write(&data)?;
        }
        Ok(())
    }

    /// The inode of a file with several names, now or earlier.
    async fn row(&mut self, ino: Ino) -> anyhow::Result<Inode> {
        let (table, key) = (self.table, row_key(ino));
        let mut rows = std::mem::take(&mut self.rows);
        if rows.len() > MOST_NODES {
            rows.clear();
        }
        let ask = |held: &Held| tree::lookup(TreeKind::Table, &table, &key, held);
        let row = self.solve(&mut rows, ask).await?;
        self.rows = rows;
        match row.and_then(|row| row.inode) {
            Some(inode) => Ok(inode),
            None => fail!(Damage, "inode {} is not in the inode table", ino.0),
        }
    }

    /// Calls `pack` with the blocks in `held` until it needs no more.
    async fn solve<T>(
        &mut self,
        held: &mut Held,
        ask: impl Fn(&Held) -> Result<T, PackError>,
    ) -> anyhow::Result<T> {
        loop {
            let needed = match ask(held) {
                Ok(answer) => return Ok(answer),
                Err(PackError::Need(needed)) => needed,
                Err(error) => return Err(error.into()),
            };
            if needed.is_empty() || needed.iter().any(|cid| held.contains_key(cid)) {
                fail!(Damage, "a tree of blocks without an end");
            }
            for cid in needed {
                let data = get(&self.store, &cid).await?;
                self.count(&data);
                held.insert(cid, data);
            }
        }
    }

    fn count(&mut self, data: &Bytes) {
        self.answer.blocks += 1;
        self.answer.bytes += data.len() as u64;
        let what = format!("exporting: {} entries", self.entries);
        (self.tell)(&what, Amount::of_about(self.answer.bytes, self.total_bytes));
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.unwritten.extend_from_slice(bytes);
        if self.unwritten.len() >= WRITTEN {
            self.out.write(&self.unwritten)?;
            self.unwritten.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<ArchiveAnswer> {
        self.unwritten.resize(self.unwritten.len() + 2 * BLOCK, 0);
        self.out.write(&self.unwritten)?;
        self.out.finish()?;
        Ok(self.answer)
    }
}

fn data_runs(size: u64, holes: &Holes) -> Vec<std::ops::Range<u64>> {
    let count = size.div_ceil(CHUNK_SIZE);
    let (mut runs, mut at) = (Vec::new(), 0);
    let end = count..count;
    for hole in holes.runs().iter().chain([&end]) {
        if at < hole.start.min(count) {
            runs.push(at..hole.start.min(count));
        }
        at = at.max(hole.end);
    }
    runs
}

fn refuse_lost(is_damaged: bool) -> anyhow::Result<()> {
    match is_damaged {
        true => fail!(
            Damage,
            "its blocks are lost: `pxfs fsck` names all such files: remove them, or put them anew"
        ),
        false => Ok(()),
    }
}

async fn get(store: &Arc<dyn BlockStore>, cid: &Cid) -> Result<Bytes, StoreError> {
    let data = store.get(cid).await?;
    check_bytes(cid, &data)?;
    Ok(data)
}
