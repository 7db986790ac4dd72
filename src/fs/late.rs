//! Pages that were stored through a shared mapping, and reach the daemon later.
//!
//! Invariant: such a page is refused for neither quota nor deadline: whoever stored it was told nothing
//! then, and would lose it. It is kept and charged, beyond the quota where it must be; `msync`, `fsync`
//! and `close` of the file tell, and nothing of the volume is published while such pages take more than
//! was bought. Which files have such pages stands in the journal. Called by `drive`, and by `publish`
//! before it takes a commit further.

use std::collections::BTreeSet;

use super::FsError;
use super::account::{Due, Room};
use super::files::File;
use super::volume::{Volume, lock};
use crate::journal::{Batch, JournalError, key};
use crate::pack::chunk::MAX_FILE;
use crate::types::Ino;

/// The record of the files with such pages: their numbers, 8 bytes each, big-endian.
const LATE: &str = "late";

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
        self.check_room(data.len() as u64)?;
        let mut body = self.body_to_change(file)?;
        let len = data.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > MAX_FILE) {
            return Err(FsError::TooLarge);
        }
        let range = offset..offset + len;
        let (mut rewritten, mut booked) = (self.booking(), self.booking());
        let due = |room: &Room| Due::written(&body, room, &range);
        let fits =
            rewritten.rewrite(file, &range, body.size).is_ok() && booked.charge(file, due).is_ok();
        if !fits {
            rewritten.force_rewrite(file, &range, body.size);
            booked.force(file, due);
        }
        if !fits || self.quota().overdue(self.clock.as_ref()) {
            self.change_late(|late| late.insert(file.ino))?;
        }
        let before = body.version;
        let stored = self.store(file.ino, &mut body, offset, data);
        if stored.is_ok() || body.version != before {
            rewritten.keep();
        }
        stored?;
        booked.keep();
        Ok(data.len() as u32)
    }

    /// What `fsync` and `close` of a file have to tell, all of whose bytes are kept.
    pub(super) fn check_late(&self, ino: Ino) -> Result<(), FsError> {
        if !lock(&self.late).contains(&ino) {
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
        let late: Vec<Ino> = lock(&self.late).iter().copied().collect();
        if late.is_empty() {
            return None;
        }
        let size_bytes = self.with_quota(|quota| quota.allowance().map(|a| a.size_bytes))?;
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
            used_bytes <= quota.size_bytes() && !quota.overdue(self.clock.as_ref())
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
            *lock(&self.late) = numbers.map(|b| Ino(u64::from_be_bytes(b))).collect();
        }
        Ok(())
    }

    fn change_late(&self, change: impl FnOnce(&mut BTreeSet<Ino>) -> bool) -> Result<(), FsError> {
        let mut late = lock(&self.late);
        if change(&mut late) {
            let bytes: Vec<u8> = late.iter().flat_map(|ino| ino.0.to_be_bytes()).collect();
            let mut batch = Batch::default();
            batch.put_bytes(key::meta(LATE), bytes.into());
            self.journal.apply(batch)?;
        }
        Ok(())
    }
}
