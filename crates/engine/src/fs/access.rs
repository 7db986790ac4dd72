//! Access times, as `relatime` has them: a read moves one that is not later than the last change, or a
//! day old.
//!
//! Invariant: they are this machine's alone: moving one makes nothing unpublished. Those that were moved
//! stand in memory until the journal takes them, many at a time; a crash may lose them. Called by
//! `drive` after what reads, and by `durable`.

use std::sync::atomic::Ordering;

use super::FsError;
use super::files::File;
use super::volume::Volume;
use crate::journal::record::Inode;
use crate::journal::{Batch, key};
use crate::types::Ino;

/// How old an access time may be, ns.
const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;

/// [`File::atime_ns`] of a file whose access time nobody has asked for yet.
pub(super) const UNKNOWN: i64 = i64::MIN;

/// Access times that wait for the journal at most; beyond it none is moved.
const MOST: usize = 1 << 16;

/// Records that are written at a time.
const STEP: usize = 256;

impl Volume {
    /// A held file was read.
    pub(super) fn note_read(&self, file: &File) {
        let now = self.clock.wall_ns();
        let changed = {
            let body = file.body();
            body.mtime_ns.max(body.ctime_ns)
        };
        let known = file.atime_ns.load(Ordering::Relaxed);
        if is_recent(known, changed, now) {
            return;
        }
        let atime = if known == UNKNOWN {
            self.note_access(file.ino)
        } else {
            self.move_access(file.ino, now)
        };
        if let Some(atime) = atime {
            file.atime_ns.store(atime, Ordering::Relaxed);
        }
    }

    /// Something was read, listed or followed. Its access time, where that is kept.
    pub(super) fn note_access(&self, ino: Ino) -> Option<i64> {
        let attr = self.getattr(ino).ok()?;
        let now = self.clock.wall_ns();
        if is_recent(attr.atime_ns, attr.mtime_ns.max(attr.ctime_ns), now) {
            Some(attr.atime_ns)
        } else {
            self.move_access(ino, now)
        }
    }

    fn move_access(&self, ino: Ino, now_ns: i64) -> Option<i64> {
        self.quota().check_change().ok()?;
        let mut moved = self.accesses.lock();
        if moved.len() >= MOST && !moved.contains_key(&ino) {
            return None;
        }
        moved.insert(ino, now_ns);
        drop(moved);
        self.journal.call();
        Some(now_ns)
    }

    /// The access time of an inode where it was moved and its record does not say so yet.
    pub(super) fn moved_access(&self, ino: Ino) -> Option<i64> {
        self.accesses.lock().get(&ino).copied()
    }

    /// The inode's record has changed, its access time where `is_set`. The lock of names is held.
    pub(super) fn forget_access(&self, ino: Ino, is_set: bool) {
        if is_set {
            self.accesses.lock().remove(&ino);
        }
        if let Some(file) = self.files.peek(ino) {
            file.atime_ns.store(UNKNOWN, Ordering::Relaxed);
        }
    }

    /// Puts the access times that were moved into the journal. It waits for no room there: who makes that
    /// room is the caller, and there are few.
    pub(super) fn save_accesses(&self) -> Result<(), FsError> {
        let moved: Vec<(Ino, i64)> = self.accesses.lock().iter().map(|(i, t)| (*i, *t)).collect();
        for step in moved.chunks(STEP) {
            // What the disk has to be asked for is read before anybody waits for it.
            for (ino, _) in step {
                self.journal.get(&key::inode(*ino))?;
            }
            let _names = self.lock_names();
            let mut batch = Batch::default();
            let mut nameless = Vec::new();
            for (ino, atime_ns) in step {
                let inode: Option<Inode> = self.journal.record(&key::inode(*ino))?;
                // What has no name may be removed at this moment, and comes to nothing anyway.
                if inode.as_ref().is_some_and(|inode| inode.nlink == 0) {
                    nameless.push(*ino);
                    continue;
                }
                // Not one that was set, or removed, since.
                if let Some(inode) = inode
                    && self.accesses.lock().get(ino) == Some(atime_ns)
                {
                    let atime_ns = *atime_ns;
                    batch.put(key::inode(*ino), &Inode { atime_ns, ..inode });
                }
            }
            self.apply_quietly(batch)?;
            let mut moved = self.accesses.lock();
            for (ino, atime_ns) in step {
                if moved.get(ino) == Some(atime_ns) && !nameless.contains(ino) {
                    moved.remove(ino);
                }
            }
        }
        Ok(())
    }
}

/// Whether a read leaves the access time as it is.
fn is_recent(atime_ns: i64, changed_ns: i64, now_ns: i64) -> bool {
    atime_ns > changed_ns && now_ns.saturating_sub(atime_ns) < DAY_NS
}
