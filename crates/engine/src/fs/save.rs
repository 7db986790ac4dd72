//! Saving one file: its bytes become durable first, then the record that names them goes into the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::FsError;
use super::body::Saved;
use super::emptied::Wait;
use super::files::File;
use super::volume::Volume;
use crate::journal::record::Patch;
use crate::journal::{Barrier, Batch, JournalError, StageFile, key};
use crate::types::Ino;

impl Volume {
    /// Saves `ino` if it is in use: its bytes first, then its record.
    pub(super) fn save_known(&self, ino: Ino, patience: Duration) -> Result<(), FsError> {
        let stamp = self.unsaved.stamp(ino);
        let Some(held) = self.files.hold_known(ino) else {
            self.unsaved.note_closed(ino, stamp);
            return Ok(());
        };
        let mut wait = Wait::new(patience);
        let mut saves = None;
        let result = loop {
            let saved = self.save_unless_rewritten(&held);
            if saved != Ok(false) || patience.is_zero() {
                break saved.map(drop);
            }
            // Who has emptied it once more has saved it before.
            let saved = held.saves.load(Ordering::Acquire);
            if *saves.get_or_insert(saved) != saved {
                break Ok(());
            }
            if wait.is_over(self.last_emptied(ino)) {
                break self.save(&held);
            }
        };
        self.leave(held);
        result
    }

    /// As [`Volume::save`], but not in the middle of what is written anew: false then, and it is saved when that is
    /// over.
    pub(super) fn save_unless_rewritten(&self, file: &File) -> Result<bool, FsError> {
        self.save_if(file, || {
            !self.was_just_emptied(file.ino) || !self.files.is_shared(file.ino)
        })
    }

    /// Makes the bytes of a held file durable, then puts its record into the journal (in memory:
    /// the caller commits).
    pub(super) fn save(&self, file: &File) -> Result<(), FsError> {
        self.save_if(file, || true).map(drop)
    }

    /// As [`Volume::save`]; false where `may` forbids it, which is asked under the file's lock.
    fn save_if(&self, file: &File, may: impl FnOnce() -> bool) -> Result<bool, FsError> {
        let _one = file.saving.lock();
        if self.files.is_orphan(file.ino) {
            self.unsaved.forget(file.ino);
            // It may have its name again: its removal failed.
            if !self.files.is_orphan(file.ino) {
                self.unsaved.note(file.ino);
                self.journal.call();
            }
            return Ok(true);
        }
        let saved = {
            let mut body = file.body_mut();
            if !body.unsaved {
                self.unsaved.remove(file.ino);
                return Ok(true);
            }
            if !may() {
                return Ok(false);
            }
            self.unsaved.end_rewrite(file.ino);
            body.save()
        };
        let stage = saved.stage.clone();
        if self.without.lacks(Barrier::BytesFirst) {
            self.put_content(file, saved, None)?;
            self.journal.sync()?;
            return stage.map_or(Ok(true), |stage| {
                self.stage.sync(&stage).map_err(FsError::from)?;
                Ok(true)
            });
        }
        let patches = match self.save_bytes(file, stage.as_deref()) {
            Ok(patches) => patches,
            Err(error) => {
                file.body_mut().unsave(saved);
                return Err(self.poison(error));
            }
        };
        self.put_content(file, saved, patches)?;
        self.note_saved(file);
        Ok(true)
    }

    /// The record of `file` is in the journal. Until here whoever wants everything saved had to wait for it.
    fn note_saved(&self, file: &File) {
        file.saves.fetch_add(1, Ordering::AcqRel);
        let body = file.body();
        if !body.unsaved {
            self.unsaved.remove(file.ino);
        }
    }

    /// Sets the times of a held file: saved at once where all else is, else with the next save.
    pub(super) fn set_times(
        &self,
        file: &File,
        mtime_ns: i64,
        ctime_ns: i64,
    ) -> Result<(), FsError> {
        let saving = file.saving.try_lock();
        let saved = {
            let mut body = self.body_to_change(file)?;
            let all_else_is_saved = !body.unsaved && saving.is_some();
            (body.mtime_ns, body.ctime_ns) = (mtime_ns, ctime_ns);
            body.unsaved = true;
            // No byte was written since the last save, so none is waited for.
            let at_once = all_else_is_saved && !self.files.is_orphan(file.ino);
            if at_once {
                // Until the journal has it no other tree may take this one's place.
                self.unsaved.note(file.ino);
            }
            at_once.then(|| body.save())
        };
        match saved {
            Some(saved) => {
                self.put_content(file, saved, Some(Vec::new()))?;
                self.note_change();
                self.note_saved(file);
                Ok(())
            }
            None => {
                self.note_unsaved(file.ino);
                Ok(())
            }
        }
    }

    /// Makes the bytes of a stage file durable that a record is to name: in the file, or, where they are
    /// few, as patches that the record brings with it.
    fn save_bytes(
        &self,
        file: &File,
        stage: Option<&StageFile>,
    ) -> Result<Option<Vec<Patch>>, JournalError> {
        let Some(stage) = stage else {
            return Ok(None);
        };
        // A patch has all of a write, or nothing: nobody is amid one.
        let patches = {
            let _still = file.body();
            self.stage.patches_of(stage)
        };
        if patches.is_none() {
            self.stage.sync(stage)?;
        }
        Ok(patches)
    }

    /// Puts what was saved into the journal, with the patches of its stage file; the earlier ones go where
    /// there are none, since the file was synced. Where that fails the file counts as unsaved again.
    fn put_content(
        &self,
        file: &File,
        saved: Saved,
        patches: Option<Vec<Patch>>,
    ) -> Result<(), FsError> {
        let ino = file.ino;
        let mut batch = Batch::default();
        if let Some(stage) = &saved.stage {
            self.put_patches(&mut batch, stage, patches);
        }
        batch.put(key::content(ino), &saved.content);
        for (index, chunk) in &saved.chunks {
            batch.put(key::chunk(ino, *index), chunk);
        }
        for index in &saved.dropped {
            batch.remove(key::chunk(ino, *index));
        }
        let unpublished = saved.content.version != saved.content.published;
        // What is being settled, and was not changed since the cut, has its mark until all of it is.
        if unpublished && !saved.is_settling {
            batch.mark(key::dirty_inode(ino));
        }
        batch.charge(saved.charge_delta);
        batch.retire(saved.retired.iter().copied());
        if let Err(error) = self.apply_quietly(batch) {
            file.body_mut().unsave(saved);
            self.unsaved.note(ino);
            self.journal.call();
            return Err(error);
        }
        Ok(())
    }

    fn put_patches(&self, batch: &mut Batch, stage: &Arc<StageFile>, patches: Option<Vec<Patch>>) {
        let Some(patches) = patches else {
            for number in self.stage.take_patches(stage.number()) {
                batch.remove(key::patch(stage.number(), number));
            }
            return;
        };
        for patch in patches {
            let number = self.journal.next_version();
            batch.put(key::patch(stage.number(), number), &patch);
            self.stage
                .note_patch(stage, number, patch.bytes.len() as u64);
        }
    }
}
