//! A volume's local state at start: the first records of a new one, and what a crash left of an old
//! one.

use std::collections::HashMap;

use super::Kind;
use super::volume::{Volume, signed};
use crate::journal::record::{Chunk, Content, Directory, Inode, Record};
use crate::journal::{Batch, Journal, JournalError, key};
use crate::pack::charge::VOLUME_OVERHEAD;
use crate::pack::chunk::CHUNK_SIZE;
use crate::types::Ino;

impl Volume {
    /// What a crash left behind goes: unlinked files, stage files and parts of them that no record
    /// names.
    pub(super) fn recover(&self) -> Result<(), JournalError> {
        for (found, _) in self.journal.scan(&key::orphans(), None, usize::MAX)? {
            if let Some(ino) = key::parse_ino(&found) {
                self.purge(ino, Vec::new())
                    .map_err(|e| JournalError::Corrupt(e.to_string()))?;
            }
        }
        let mut wanted: HashMap<u64, u64> = HashMap::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let some = self
                .journal
                .scan(&key::dirty_inodes(), after.as_deref(), 1024)?;
            for (found, _) in &some {
                let Some(ino) = key::parse_ino(found) else {
                    continue;
                };
                if let Some(content) = self.journal.record::<Content>(&key::content(ino))?
                    && let Some(stage) = content.stage
                {
                    wanted.insert(stage, self.mapped_len(ino)?);
                }
            }
            match some.last() {
                Some((last, _)) => after = Some(last.clone()),
                None => break,
            }
        }
        self.stage.recover(&wanted)?;
        self.journal.sync()?;
        self.quota()
            .adjust(signed(self.journal.counters().used_bytes));
        let dirty = !self.journal.scan(&key::dirty_inodes(), None, 1)?.is_empty()
            || !self
                .journal
                .scan(&key::dirty_entries(), None, 1)?
                .is_empty();
        if dirty {
            self.note_change();
            let unpublished_bytes = self.pending().map_or(0, |pending| pending.bytes);
            self.quota().take_again(unpublished_bytes);
        }
        Ok(())
    }

    /// One more than the last byte of a stage file that a record names.
    fn mapped_len(&self, ino: Ino) -> Result<u64, JournalError> {
        let mut end = 0;
        for (found, bytes) in self.journal.scan(&key::chunks(ino), None, usize::MAX)? {
            let chunk: Chunk = Record::from_bytes(&bytes)?;
            if let (Some(index), Some(&(_, last))) =
                (key::parse_second(&found), chunk.ranges.last())
            {
                end = end.max(index * CHUNK_SIZE + u64::from(last));
            }
        }
        Ok(end)
    }
}

/// The first records of a new volume: its root directory, and nothing in it.
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
    journal.apply(batch)?;
    journal.sync()
}
