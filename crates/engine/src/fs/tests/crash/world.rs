//! A volume on a machine whose power can be cut, and all that can be seen of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cid::Cid;

use super::content::Times;
use super::model::{Found, KEPT, Node};
use crate::cache::Cache;
use crate::clock::ManualClock;
use crate::fs::content::content_charge;
use crate::fs::create::{hard_surcharge, xattrs_bytes};
use crate::fs::quota::signed;
use crate::fs::tests::rig;
use crate::fs::{Cut, Drive, FsError, Kind, Limits, Volume, VolumeOptions, Want};
use crate::journal::record::{Chunk, Content, Entry, Inode, Record};
use crate::journal::simulated::{Left, Power};
use crate::journal::{JournalError, Without, key};
use crate::pack::charge;
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::Ino;

/// A volume in use.
pub(super) struct World {
    pub(super) power: Arc<Power>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) cache: Arc<Cache>,
    pub(super) volume: Arc<Volume>,
    pub(super) drive: Drive,
    pub(super) root: Ino,
    /// Calls may be refused for want of quota.
    pub(super) is_tight: bool,
    /// Others fill the disk now and then: calls may be refused for want of room.
    pub(super) is_shared: bool,
}

impl World {
    /// The volume that `left` holds, or a new one.
    pub(super) fn open(
        left: Left,
        cache: Arc<Cache>,
        clock: &Arc<ManualClock>,
        how: (Without, Limits),
        quota: u64,
    ) -> Result<Self, JournalError> {
        Self::on(Power::on(left), cache, clock, how, quota)
    }

    /// The volume on the disks of `power`, or a new one.
    pub(super) fn on(
        power: Arc<Power>,
        cache: Arc<Cache>,
        clock: &Arc<ManualClock>,
        how: (Without, Limits),
        quota: u64,
    ) -> Result<Self, JournalError> {
        let disks = (power.disk(0), power.disk(1));
        let options = VolumeOptions {
            limits: how.1,
            ..rig::options(how.0)
        };
        let (drive, volume, root) = rig::open_with(disks.0, disks.1, clock, &cache, &options)?;
        volume
            .set_allowance(&rig::allowance(clock, quota))
            .expect("an allowance");
        Ok(Self {
            power,
            clock: Arc::clone(clock),
            cache,
            volume,
            drive,
            root,
            is_tight: quota < rig::QUOTA,
            is_shared: false,
        })
    }

    /// All that a user sees.
    ///
    /// # Errors
    /// What cannot be read, or contradicts itself.
    pub(super) fn found(&self, has: &dyn Fn(&Cid) -> Option<Vec<u8>>) -> Result<Found, String> {
        let told = |error: FsError| error.to_string();
        let mut found = Found::default();
        let mut links: BTreeMap<u64, u32> = BTreeMap::new();
        let mut dirs = vec![self.root];
        while let Some(dir) = dirs.pop() {
            self.note(&mut found, &mut links, dir)?;
            let mut items = Vec::new();
            self.drive
                .readdir(dir, 2, false, &mut |item, _| {
                    items.push(item.clone());
                    true
                })
                .map_err(told)?;
            for item in items {
                let name = String::from_utf8(item.name.clone()).map_err(|e| e.to_string())?;
                let looked = self.drive.lookup(dir, &item.name).map_err(told)?;
                if (looked.ino, looked.kind) != (item.ino, item.kind) {
                    return Err(format!("{name}: readdir and lookup disagree"));
                }
                found.tree.entries.insert((dir.0, name.clone()), item.ino.0);
                if item.kind == Kind::Directory {
                    dirs.push(item.ino);
                } else {
                    self.note(&mut found, &mut links, item.ino)?;
                }
                if item.kind == Kind::File && !found.bytes.contains_key(&item.ino.0) {
                    let bytes = self.read(item.ino, looked.size, has);
                    let bytes = bytes.map_err(|why| format!("{name}: {why}"))?;
                    found.bytes.insert(item.ino.0, bytes);
                }
            }
        }
        for name in KEPT {
            let value = self.volume.raw_meta(name).map_err(told)?;
            if let Some(value) = value {
                found.tree.kept.insert(name, value.to_vec());
            }
        }
        for (ino, told) in links {
            let counted = found.tree.links(ino);
            if counted != told as usize {
                return Err(format!("inode {ino} has {counted} links and says {told}"));
            }
        }
        Ok(found)
    }

    /// The names of a cut, and of its files those that have `contents`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(super) fn found_in(
        &self,
        cut: &Cut,
        contents: &HashMap<Ino, Vec<u8>>,
    ) -> Result<Found, JournalError> {
        let outer = |ino: Ino| ino.0 | self.root.0 & !Ino::MAX.0;
        let snapshot = cut.snapshot();
        let mut found = Found::default();
        let mut left = vec![Ino::ROOT];
        while let Some(ino) = left.pop() {
            let inode: Inode = snapshot
                .record(&key::inode(ino))?
                .ok_or_else(|| JournalError::Corrupt(format!("{ino:?} is not there")))?;
            let content: Option<Content> = snapshot.record(&key::content(ino))?;
            let times = Times {
                mtime_ns: content.as_ref().map_or(inode.mtime_ns, |own| own.mtime_ns),
                ctime_ns: (content.as_ref())
                    .map_or(0, |own| own.ctime_ns)
                    .max(inode.ctime_ns),
            };
            if content.is_some() {
                found.times.insert(outer(ino), times);
            }
            if let Some(bytes) = contents.get(&ino) {
                found.bytes.insert(outer(ino), bytes.clone());
            }
            found.tree.nodes.insert(outer(ino), node(inode, times));
            let prefix = key::entries(ino);
            for (place, bytes) in snapshot.scan(&prefix, None, usize::MAX)? {
                let name = String::from_utf8_lossy(&place[prefix.len()..]).into_owned();
                let named = Ino(Entry::from_bytes(&bytes)?.ino);
                found.tree.entries.insert((outer(ino), name), outer(named));
                left.push(named);
            }
        }
        for name in KEPT {
            if let Some(value) = snapshot.get(&key::meta(name))? {
                found.tree.kept.insert(name, value.to_vec());
            }
        }
        Ok(found)
    }

    fn note(
        &self,
        found: &mut Found,
        links: &mut BTreeMap<u64, u32>,
        ino: Ino,
    ) -> Result<(), String> {
        let told = |error: FsError| error.to_string();
        let attr = self.drive.getattr(ino).map_err(told)?;
        let target = match attr.kind {
            Kind::Symlink => self.drive.readlink(ino).map_err(told)?,
            _ => Vec::new(),
        };
        let mut xattrs = BTreeMap::new();
        for name in self
            .drive
            .listxattr(ino)
            .map_err(told)?
            .split(|byte| *byte == 0)
        {
            if !name.is_empty() {
                let value = self.drive.getxattr(ino, name).map_err(told)?;
                xattrs.insert(name.to_vec(), value);
            }
        }
        let is_dir = attr.kind == Kind::Directory;
        if attr.kind == Kind::File {
            let times = Times {
                mtime_ns: attr.mtime_ns,
                ctime_ns: attr.ctime_ns,
            };
            found.times.insert(ino.0, times);
        }
        let node = Node {
            kind: attr.kind,
            mode: attr.mode,
            owner: (attr.uid, attr.gid),
            rdev: attr.rdev,
            target,
            xattrs,
            mtime_ns: if is_dir { attr.mtime_ns } else { 0 },
            ctime_ns: attr.ctime_ns,
        };
        links.insert(ino.0, attr.nlink);
        found.tree.nodes.insert(ino.0, node);
        Ok(())
    }

    /// The bytes of a file; what is published is fetched from what the node `has`.
    pub(super) fn read(
        &self,
        ino: Ino,
        size: u64,
        has: &dyn Fn(&Cid) -> Option<Vec<u8>>,
    ) -> Result<Vec<u8>, String> {
        let opened = self.drive.open(ino, 0).map_err(|e| e.to_string())?;
        let result = loop {
            match self.drive.read(ino, opened.fh, 0, size as u32) {
                Ok(bytes) => break Ok(bytes),
                Err(FsError::NotLocal(want)) => {
                    let Want::Content { cid, size, .. } = *want else {
                        break Err(format!("{want:?}"));
                    };
                    let Some(content) = has(&cid) else {
                        break Err(format!("the node does not have {cid} of {size} bytes"));
                    };
                    for (index, part) in content.chunks(CHUNK_SIZE as usize).enumerate() {
                        self.cache.fill(&cid, size, index as u64, part);
                    }
                }
                Err(error) => break Err(error.to_string()),
            }
        };
        self.drive.release(ino, opened.fh);
        result
    }

    /// Whether the books are right: the charge, the inodes, and the files of the stage, just opened.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn audit(&self) -> Result<(), String> {
        let (mut charged, mut inodes) = (signed(charge::VOLUME_OVERHEAD), 0);
        let mut staged = BTreeSet::new();
        let scan = |prefix: &[u8]| self.volume.journal.scan(prefix, None, usize::MAX);
        let decoded = |error: JournalError| error.to_string();
        for prefix in key::tree() {
            for (found, bytes) in scan(&prefix).map_err(decoded)? {
                if found[0] == key::entry(Ino(0), b"")[0] {
                    charged += signed(charge::entry_charge(&found[9..], 0, 0));
                } else if found[0] == key::inode(Ino(0))[0] {
                    let inode = Inode::from_bytes(&bytes).map_err(decoded)?;
                    inodes += 1;
                    charged += attributes_charge(&inode, key::parse_ino(&found) == Some(Ino::ROOT));
                } else if found[0] == key::content(Ino(0))[0] {
                    let content = Content::from_bytes(&bytes).map_err(decoded)?;
                    charged += signed(content_charge(&content));
                    if let Some((number, ino)) = content.stage.zip(key::parse_ino(&found)) {
                        staged.insert(number.to_string());
                        self.audit_length(number, ino).map_err(decoded)??;
                    }
                } else if found[0] == key::orphans()[0] {
                    return Err("an unlinked file was left".to_owned());
                }
            }
        }
        let used = self.volume.with_quota(|quota| quota.used_bytes());
        if signed(used) != charged {
            return Err(format!(
                "{used} bytes are in use, the charges make {charged}"
            ));
        }
        let bought = self.volume.with_quota(|quota| quota.size_bytes());
        if used > bought {
            return Err(format!("{used} bytes are in use, of {bought}"));
        }
        if self.volume.journal.counters().inodes != inodes {
            let counted = self.volume.journal.counters().inodes;
            return Err(format!("{counted} inodes are counted, there are {inodes}"));
        }
        let there: BTreeSet<String> = self
            .power
            .disk(1)
            .list()
            .expect("names")
            .into_iter()
            .collect();
        if there != staged {
            return Err(format!(
                "stage files {there:?}, of which records name {staged:?}"
            ));
        }
        match self.volume.poisoned() {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }
}

impl World {
    /// Whether a stage file ends where its last byte is mapped: what lay behind is nobody's.
    fn audit_length(&self, number: u64, ino: Ino) -> Result<Result<(), String>, JournalError> {
        let mut mapped = 0;
        for (found, bytes) in self
            .volume
            .journal
            .scan(&key::chunks(ino), None, usize::MAX)?
        {
            let last = Chunk::from_bytes(&bytes)?
                .ranges
                .last()
                .map(|range| range.1);
            if let Some((index, end)) = key::parse_second(&found).zip(last) {
                mapped = mapped.max(index * CHUNK_SIZE + u64::from(end));
            }
        }
        let len = self.power.disk(1).open(&number.to_string())?.len()?;
        Ok(match len <= mapped {
            true => Ok(()),
            false => Err(format!(
                "stage file {number} has {len} bytes, {mapped} mapped"
            )),
        })
    }
}

/// An inode as the model has it.
fn node(inode: Inode, times: Times) -> Node {
    let kinds = [
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::Fifo,
        Kind::Socket,
        Kind::CharDevice,
        Kind::BlockDevice,
    ];
    let kind = kinds.into_iter().find(|kind| *kind as u8 == inode.kind);
    let kind = kind.expect("a kind");
    let xattrs = inode.xattrs.into_iter().map(|one| (one.name, one.value));
    Node {
        kind,
        mode: inode.mode,
        owner: (inode.uid, inode.gid),
        rdev: inode.rdev,
        target: inode.target,
        xattrs: xattrs.collect(),
        mtime_ns: match kind {
            Kind::Directory => times.mtime_ns,
            _ => 0,
        },
        ctime_ns: times.ctime_ns,
    }
}

fn attributes_charge(inode: &Inode, is_root: bool) -> i64 {
    if is_root {
        return 0;
    }
    let target = inode.target.len() as u64;
    let own = signed(charge::entry_charge(b"", xattrs_bytes(inode), target))
        - signed(charge::entry_charge(b"", 0, 0));
    let hard = if inode.hard { hard_surcharge(inode) } else { 0 };
    let directory = if inode.kind == Kind::Directory as u8 {
        signed(charge::DIRECTORY)
    } else {
        0
    };
    own + hard + directory
}
