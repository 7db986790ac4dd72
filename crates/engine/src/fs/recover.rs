//! A volume's local state at start: the first records of a new one, and what a crash left of an old
//! one.
//!
//! Invariant: memory does not grow with what there is to recover: records are read a page at a time, and stage files
//! looked after so many at a time, by rising number.

use std::collections::{BTreeMap, HashSet};

use super::climb::climb;
use super::pages::each_page;
use super::quota::signed;
use super::volume::Volume;
use super::{FsError, Kind};
use crate::journal::record::{Chunk, Content, Directory, Inode, Patch, Record};
use crate::journal::{Barrier, Batch, Journal, JournalError, key};
use crate::pack::charge::VOLUME_OVERHEAD;
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::Ino;

/// How much a recovery holds at a time.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Records.
    pub(super) page: usize,
    /// Stage files.
    pub(super) files: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            page: 1024,
            files: 65_536,
        }
    }
}

/// Directories that are remembered as lying below the root.
const KNOWN: usize = 4096;

/// Patches that are read at a time.
const PATCHES: usize = 64;

impl Volume {
    /// What a crash left behind goes: unlinked files, stage files and parts of them that no record
    /// names.
    pub(super) fn recover(&self, bounds: Bounds) -> Result<(), JournalError> {
        self.check_ways()?;
        self.patch_again()?;
        each_page(&self.journal, &key::orphans(), bounds.page, |found, _| {
            self.journal.wait_for_room()?;
            match key::parse_ino(found) {
                Some(ino) => {
                    self.purge_in(ino, Vec::new(), bounds.page)
                        .map_err(|error| match error {
                            FsError::NoRoom => JournalError::NoRoom,
                            FsError::Disk(what) => JournalError::Disk(what),
                            other => JournalError::Corrupt(other.to_string()),
                        })
                }
                None => Ok(()),
            }
        })?;
        let mut from = Some(0);
        while let Some(first) = from {
            let (mapped, next) = self.mapped_from(first, bounds)?;
            self.stage
                .recover(first..next.unwrap_or(u64::MAX), &mapped)?;
            from = next;
        }
        if !self.without.lacks(Barrier::FirstRecords) {
            self.journal.sync()?;
        }
        self.quota()
            .adjust(signed(self.journal.counters().used_bytes));
        let dirty = !self.journal.scan(&key::dirty_inodes(), None, 1)?.is_empty()
            || !self
                .journal
                .scan(&key::dirty_entries(), None, 1)?
                .is_empty();
        if dirty {
            self.note_change();
            let pending = self.pending_in(bounds.page);
            let unpublished_bytes = pending.map_or(0, |pending| pending.bytes);
            self.quota().take_again(unpublished_bytes);
        }
        Ok(())
    }

    /// Refuses a journal in which a directory that has names to publish does not lie below the root: one look
    /// for each of them, and for those above it.
    fn check_ways(&self) -> Result<(), JournalError> {
        let (mut known, mut after) = (HashSet::new(), None::<Vec<u8>>);
        loop {
            let prefix = key::dirty_entries();
            let some = self.journal.scan(&prefix, after.as_deref(), 1)?;
            let marked = some.first();
            let Some((dir, _)) = marked.and_then(|(found, _)| key::parse_dirty_entry(found)) else {
                return Ok(());
            };
            let mut way = Vec::new();
            let checked = climb(
                dir,
                |at| self.parent_of(at),
                |at| {
                    let new = !known.contains(&at);
                    way.extend(new.then_some(at));
                    Ok(new)
                },
            );
            checked.map_err(|error| match error {
                FsError::Damaged(what) => JournalError::Corrupt(what),
                other => JournalError::Corrupt(other.to_string()),
            })?;
            if known.len() > KNOWN {
                known.clear();
            }
            known.extend(way);
            after = key::end_of(&key::dirty_entries_in(dir));
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// The stage files from number `first` on that records name, with the length that is mapped in each:
    /// so many as are looked after at a time, and the number behind them where there are more.
    fn mapped_from(
        &self,
        first: u64,
        bounds: Bounds,
    ) -> Result<(BTreeMap<u64, u64>, Option<u64>), JournalError> {
        let mut mapped = BTreeMap::new();
        let mut end: Option<u64> = None;
        each_page(
            &self.journal,
            &key::dirty_inodes(),
            bounds.page,
            |found, _| {
                let Some(ino) = key::parse_ino(found) else {
                    return Ok(());
                };
                let content: Option<Content> = self.journal.record(&key::content(ino))?;
                let stage = content.and_then(|content| content.stage);
                let wanted = |stage: &u64| *stage >= first && end.is_none_or(|end| *stage < end);
                let Some(stage) = stage.filter(wanted) else {
                    return Ok(());
                };
                mapped.insert(stage, self.mapped_len(ino, bounds.page)?);
                if mapped.len() > bounds.files {
                    end = mapped.pop_last().map(|(greatest, _)| greatest);
                }
                Ok(())
            },
        )?;
        Ok((mapped, end))
    }

    /// Writes all patches into their stage files: a crash may have left these without. The journal keeps
    /// them until the files are synced.
    pub(super) fn patch_again(&self) -> Result<(), JournalError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let some = self
                .journal
                .scan(&key::patches(), after.as_deref(), PATCHES)?;
            for (found, bytes) in &some {
                let Some((stage, number)) = key::parse_patch(found) else {
                    continue;
                };
                let patch: Patch = Record::from_bytes(bytes)?;
                if !self.stage.patch_again(stage, number, &patch)? {
                    let mut batch = Batch::default();
                    batch.remove(found.clone());
                    self.journal.wait_for_room()?;
                    self.journal.apply(batch)?;
                }
            }
            match some.into_iter().last() {
                Some((last, _)) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// One more than the last byte of a stage file that a record names.
    fn mapped_len(&self, ino: Ino, page: usize) -> Result<u64, JournalError> {
        let (mut end, mut after) = (0, None::<Vec<u8>>);
        loop {
            let some = self
                .journal
                .scan(&key::chunks(ino), after.as_deref(), page)?;
            for (found, bytes) in &some {
                let chunk: Chunk = Record::from_bytes(bytes)?;
                if let (Some(index), Some(&(_, last))) =
                    (key::parse_second(found), chunk.ranges.last())
                {
                    end = end.max(index * CHUNK_SIZE + u64::from(last));
                }
            }
            match some.into_iter().last() {
                Some((last, _)) => after = Some(last),
                None => return Ok(end),
            }
        }
    }
}

/// The first records of a new volume: its root directory, and nothing in it. Durable when it has been looked after
/// ([`Volume::recover`]).
pub(super) fn begin(journal: &Journal, owner: (u32, u32), now_ns: i64) -> Result<(), JournalError> {
    let root = Inode {
        kind: Kind::Directory as u8,
        mode: 0o755,
        uid: owner.0,
        gid: owner.1,
        nlink: 2,
        rdev: 0,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        birth_ns: now_ns,
        hard: false,
        target: Vec::new(),
        xattrs: Vec::new(),
        atime_ns: now_ns,
    };
    let mut batch = Batch::default();
    batch.put(key::inode(Ino::ROOT), &root);
    batch.put(
        key::directory(Ino::ROOT),
        &Directory {
            loaded: true,
            published: None,
        },
    );
    batch.charge(signed(VOLUME_OVERHEAD));
    batch.count_inodes(1);
    journal.apply(batch)
}
