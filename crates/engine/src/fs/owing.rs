//! Files that were cut, and are not saved yet, while others have their room in the quota: they are saved first.
//!
//! Invariant: what becomes durable has no more than the quota, so that a crash brings no more back; but for a moment
//! in which files are cut beside the look, and where a disk is too slow. Called by `durable`.

use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::FsError;
use super::content::content_charge;
use super::durable::{STEP, Worker, spawn};
use super::emptied::REWRITE;
use super::files::File;
use super::volume::Volume;
use crate::journal::key;
use crate::journal::record::Content;
use crate::types::Ino;

/// How long the journal waits for files that owe room: less than calls wait for the journal.
const OWING: Duration = Duration::from_secs(5);

/// How often it is looked whether they are saved.
const LOOK: Duration = Duration::from_millis(2);

impl Volume {
    /// Saves the files that owe room, so that what becomes durable next has no more than the quota; the inner error
    /// is that nobody can say which do. Those that may be saved as they are come first; one that is being written
    /// anew is waited for only where that was not enough.
    pub(super) fn save_owing(&self) -> Result<Result<(), FsError>, FsError> {
        let (mut looked, mut saved) = (Ok(()), Ok(()));
        for patience in [Duration::ZERO, REWRITE] {
            match self.owes_room() {
                Ok(false) => {}
                // The later pass also has those that the earlier one could not save.
                Ok(true) => saved = self.save_each(&self.owing(), patience),
                // What was acknowledged is made durable all the same.
                Err(error) => looked = Err(error),
            }
        }
        saved.map(|()| looked)
    }

    /// Whether files that were cut, and are not saved yet, have given room in the quota to what would
    /// become durable before: a crash would bring them back beside it, and more than the quota has.
    pub(super) fn owes_room(&self) -> Result<bool, FsError> {
        let (size, used) = self.with_quota(|quota| (quota.size_bytes(), quota.used_bytes()));
        let mut journaled = self.journal.counters().used_bytes;
        if journaled <= size || journaled <= used {
            return Ok(false);
        }
        // What has no name any more is counted until it is closed, and goes with a crash.
        for (found, _) in self.journal.scan(&key::orphans(), None, usize::MAX)? {
            let content = key::parse_ino(&found).map(|ino| self.journal.record(&key::content(ino)));
            let content: Option<Content> = content.transpose()?.flatten();
            journaled = journaled.saturating_sub(content.as_ref().map_or(0, content_charge));
        }
        Ok(journaled > size && journaled > used)
    }

    /// The files that owe it: the journal has them charged with more than they have.
    fn owing(&self) -> Vec<Ino> {
        let mut unsaved = self.unsaved();
        let owes = |file: &File| file.body().saved_too_long();
        unsaved.retain(|ino| self.files.peek(*ino).is_some_and(|file| owes(&file)));
        unsaved
    }

    /// Writes what fills the memory into the journal's table: it waits for no file's bytes, since others wait
    /// for it, but for a moment where some owe room.
    pub(super) fn keep_draining(&self) {
        std::thread::scope(|scope| {
            let mut saving = None;
            while !self.is_over() {
                let before = || self.wait_for_owing(scope, &mut saving);
                if let Err(error) = self.journal.drain(STEP, before) {
                    self.poison(error);
                    break;
                }
            }
            self.journal.unattend();
        });
    }

    /// Writes what gathers into the journal's log, so that an `fsync` carries little that others did. What may owe room
    /// is left to those who save first what was cut.
    pub(super) fn keep_logging(&self) {
        while !self.is_over() {
            let most = self.with_quota(|quota| quota.size_bytes());
            match self.journal.log_ahead(STEP, most) {
                Ok(true) => {}
                Ok(false) => std::thread::sleep(STEP),
                Err(error) => {
                    self.poison(error);
                    break;
                }
            }
        }
    }

    /// Has the files saved that owe room, by another thread, which may itself wait for what this one is to write:
    /// then, or where the disk is slow, a crash at this moment brings back more than the quota has.
    fn wait_for_owing<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        saving: &mut Option<Worker<'scope>>,
    ) {
        if self.owes_room() != Ok(true) {
            return;
        }
        if saving.as_ref().is_none_or(Worker::is_finished) {
            self.end_owing(saving.take());
            *saving = spawn(scope, "owing", || self.save_owing().flatten());
        }
        let begun = Instant::now();
        let is_late = || begun.elapsed() >= OWING || self.stopped.load(Ordering::Acquire);
        while saving.as_ref().is_some_and(|saving| !saving.is_finished()) && !is_late() {
            std::thread::sleep(LOOK);
        }
        if saving.as_ref().is_some_and(Worker::is_finished) {
            self.end_owing(saving.take());
        }
    }

    fn end_owing(&self, saving: Option<Worker<'_>>) {
        let saved = saving.map(|saving| saving.join().unwrap_or_else(|_| Err(self.died())));
        if let Some(Err(error)) = saved {
            tracing::debug!(%error, "what was cut off may come back with a crash");
        }
    }
}
