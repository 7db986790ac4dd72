//! What can be got out of a volume whose journal is damaged, and what of it is not sure.
//!
//! Invariant: nothing on the disk is changed. Called by `run` where a token's directory is saved.

use std::sync::Arc;

use super::pages::each_page;
use super::volume::{JOURNAL, Volume, VolumeOptions};
use super::{FsError, Kind};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::journal::record::{Content, Inode, Record};
use crate::journal::{CowDisk, Disk, Doubts, Journal, JournalError, Stage, key};
use crate::types::Ino;

/// Records that are read at a time.
const PAGE: usize = 1024;

impl Volume {
    /// What can be read of a volume whose journal has a damaged log, and what of it is not sure. Nothing of it is changed:
    /// neither `home` nor `stage` is written to.
    ///
    /// # Errors
    /// As [`Volume::open`], but for damaged frames of the log.
    pub fn open_damaged(
        home: Arc<dyn Disk>,
        stage: Arc<dyn Disk>,
        cache: Arc<Cache>,
        clock: Arc<dyn Clock>,
        options: &VolumeOptions,
    ) -> Result<(Arc<Self>, Doubts), JournalError> {
        let [home, stage] = [home, stage].map(|disk| Arc::new(CowDisk::over(disk)));
        let (journal, doubts) = Journal::open_damaged(home, JOURNAL, options.journal_cache_bytes)?;
        let stage = Stage::new(stage, options.without);
        let volume = Self::with(journal, stage, cache, clock, options)?;
        volume.patch_again()?;
        Ok((volume, doubts))
    }

    /// Whether the journal in `home` cannot be opened for damage. Nothing of it is changed.
    pub fn is_damaged(home: Arc<dyn Disk>, options: &VolumeOptions) -> bool {
        let (home, bytes) = (Arc::new(CowDisk::over(home)), options.journal_cache_bytes);
        let opened = Journal::open(home, JOURNAL, bytes, options.without);
        matches!(opened, Err(JournalError::Corrupt(_)))
    }

    /// Whether the content or the attributes of an inode are not sure.
    pub fn is_doubted(&self, doubts: &Doubts, ino: Ino) -> bool {
        let content = self.journal.record::<Content>(&key::content(ino));
        content.is_err() || doubts.concern(ino, content.ok().flatten().and_then(|c| c.stage))
    }

    /// Calls `each` with every regular file that the journal has, named or not.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn each_file(&self, mut each: impl FnMut(Ino)) -> Result<(), FsError> {
        let all = each_page(&self.journal, &key::inodes(), PAGE, |found, value| {
            let inode = Inode::from_bytes(&value);
            let is_file =
                inode.is_ok_and(|inode| inode.kind == Kind::File as u8 && inode.nlink > 0);
            if let Some(ino) = key::parse_ino(found).filter(|_| is_file) {
                each(ino);
            }
            Ok(())
        });
        Ok(all?)
    }
}
