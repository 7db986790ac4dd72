//! Pages that were stored through a shared mapping, and reach the daemon later.
//!
//! Invariant: such a page is refused for neither quota nor deadline: whoever stored it was told nothing
//! then, and would lose it. It is kept and charged, beyond the quota where it must be; `msync`, `fsync`
//! and `close` of the file tell, and nothing of the volume is published while such pages take more than
//! was bought. Which files have such pages stands in the journal. Called by `drive`, and by `publish`
//! before it takes a commit further.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::FsError;
use super::account::Due;
use super::files::File;
use super::preallocation::Preallocation;
use super::volume::Volume;
use crate::journal::{Batch, JournalError, key};
use crate::pack::chunk::MAX_FILE;
use crate::types::Ino;

/// The record of the files with such pages: their numbers, 8 bytes each, big-endian.
const LATE: &str = "late";

/// How long such pages wait for room on this machine, and how often they look.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);
/// Want of room that no such page has met for so long is over: longer than one of them is away between two looks.
const OVER: Duration = Duration::from_secs(30);

/// Want of room on this machine, as pages from mappings meet it.
#[derive(Clone, Copy)]
pub(super) struct Want {
    since: Duration,
    met: Duration,
}

/// Files that a line names; the others are counted.
const NAMED: usize = 3;

impl Volume {
    /// Keeps `data`, which the kernel wrote back from a mapping, at `offset` of a held file.
    pub(super) fn write_mapped(
        &self,
        file: &File,
        offset: u64,
        data: &[u8],
    ) -> Result<u32, FsError> {
        self.quota().check_change()?;
        self.wait_for_mapped_room(data.len() as u64)?;
        let mut body = self.body_to_change(file)?;
        let len = data.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > MAX_FILE) {
            return Err(FsError::TooLarge);
        }
        let range = offset..offset + len;
        let (mut rewritten, mut reserved) = (self.quota.reservation(), self.quota.reservation());
        let due = |room: &Preallocation| Due::written(&body, room, &range);
        let fits = rewritten.rewrite(file, &range, body.size).is_ok()
            && reserved.charge(file, due).is_ok();
        if !fits {
            rewritten.force_rewrite(file, &range, body.size);
            reserved.force(file, due);
        }
        if !fits || self.quota().overdue(self.clock.as_ref()) {
            self.change_late(|late| late.insert(file.ino))?;
        }
        let before = body.version;
        let stored = self.store(file.ino, &mut body, offset, data);
        if stored.is_ok() || body.version != before {
            rewritten.confirm();
        }
        stored?;
        reserved.confirm();
        Ok(data.len() as u32)
    }

    /// As [`Volume::check_room`], with more patience: where it ends, the kernel drops the page. All that wait have
    /// one deadline, since the kernel sends a few at a time, and reads of other files wait behind them.
    fn wait_for_mapped_room(&self, len: u64) -> Result<(), FsError> {
        loop {
            let left = PATIENCE.saturating_sub(self.wanted_for());
            let has_memory = match self.journal.wait_for_room_within(left) {
                Ok(()) => true,
                Err(JournalError::NoRoom) => false,
                Err(error) => return Err(error.into()),
            };
            let needed = self.needed_room(len);
            if has_memory && self.stage.free_bytes()? >= needed {
                self.want.lock().take();
                return Ok(());
            }
            let now = self.clock.boottime();
            let (is_first, since) = {
                let mut want = self.want.lock();
                let known = want.filter(|want| now.saturating_sub(want.met) < OVER);
                let since = known.map_or(now, |known| known.since);
                *want = Some(Want { since, met: now });
                (known.is_none(), since)
            };
            if is_first {
                self.give_way(needed);
            }
            if now.saturating_sub(since) >= PATIENCE || self.stopped.load(Ordering::Acquire) {
                return Err(FsError::NoRoom);
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// For how long pages have met want of room.
    fn wanted_for(&self) -> Duration {
        let now = self.clock.boottime();
        let want = self
            .want
            .lock()
            .filter(|want| now.saturating_sub(want.met) < OVER);
        want.map_or(Duration::ZERO, |want| now.saturating_sub(want.since))
    }

    /// What `fsync` and `close` of a file have to tell, all of whose bytes are kept.
    pub(super) fn check_late(&self, ino: Ino) -> Result<(), FsError> {
        if !self.late.lock().contains(&ino) {
            return Ok(());
        }
        let mut quota = self.quota();
        if quota.overdue(self.clock.as_ref()) {
            return Err(FsError::Overdue);
        }
        if quota.room_bytes() == 0 {
            return Err(FsError::Quota);
        }
        drop(quota);
        self.change_late(|late| late.remove(&ino))
    }

    /// Why nothing can be published while `used_bytes` are in use: one line that names the files. `None`
    /// while they are no more than the quota, or when no mapped page is the reason: names that grew
    /// are never refused, and what they take is told to the chain as it is.
    #[must_use]
    pub fn over_quota(&self, used_bytes: u64) -> Option<String> {
        let late: Vec<Ino> = self.late.lock().iter().copied().collect();
        if late.is_empty() {
            return None;
        }
        let size_bytes = self.with_quota(|quota| quota.allowance().map(|_| quota.own_bytes()))?;
        let over = used_bytes
            .checked_sub(size_bytes)
            .filter(|&over| over > 0)?;
        let mut names: Vec<String> = late.iter().take(NAMED).map(|&i| self.path_of(i)).collect();
        if late.len() > NAMED {
            names.push(format!("{} more", late.len() - NAMED));
        }
        Some(format!(
            "with mapped pages of {} {over} bytes more are used than the quota has: delete something, nothing is published until then",
            names.join(", ")
        ))
    }

    /// A commit of `used_bytes` begins: pages that fit now are as good as any other.
    ///
    /// # Errors
    /// The journal takes nothing.
    pub fn admit_late(&self, used_bytes: u64) -> Result<(), FsError> {
        let fit = {
            let mut quota = self.quota();
            used_bytes <= quota.own_bytes() && !quota.overdue(self.clock.as_ref())
        };
        if fit {
            self.change_late(|late| !std::mem::take(late).is_empty())?;
        }
        Ok(())
    }

    /// The files that the journal has with such pages.
    pub(super) fn load_late(&self) -> Result<(), JournalError> {
        if let Some(bytes) = self.journal.get(&key::meta(LATE))? {
            let numbers = bytes.chunks_exact(8).filter_map(|b| b.try_into().ok());
            *self.late.lock() = numbers.map(|b| Ino(u64::from_be_bytes(b))).collect();
        }
        Ok(())
    }

    fn change_late(&self, change: impl FnOnce(&mut BTreeSet<Ino>) -> bool) -> Result<(), FsError> {
        let mut late = self.late.lock();
        if change(&mut late) {
            let bytes: Vec<u8> = late.iter().flat_map(|ino| ino.0.to_be_bytes()).collect();
            let mut batch = Batch::default();
            batch.put_bytes(key::meta(LATE), bytes.into());
            self.journal.apply(batch)?;
        }
        Ok(())
    }
}
