//! Files that are emptied and written anew, as shells and editors do: after a crash the old one or the new one.
//!
//! Invariant: between an emptying and the end of what is written then (the last close, the next emptying, or two
//! seconds) the journal gets nothing of the file but by an `fsync` of it. One that is emptied again and again is
//! saved whenever that has gone on for two seconds: as it was just before it was emptied. Called by `io` and `durable`.

use std::time::Duration;

use super::FsError;
use super::files::File;
use super::unsaved::Emptied;
use super::volume::Volume;
use crate::journal::Barrier;
use crate::types::Ino;

/// For how long a file that was emptied, and is open, is taken to be written anew. Until then the
/// journal keeps the old content, so that a crash leaves the old one or the new one.
pub(super) const REWRITE: Duration = Duration::from_secs(2);

/// How often it is looked whether a rewrite is over.
const STEP: Duration = Duration::from_millis(5);

/// Who wants a file saved that is being written anew: each emptying begins the wait once more, to an end all the same.
pub(super) struct Wait {
    patience: Duration,
    whole: Duration,
    since_emptied: Duration,
    emptied: Option<Duration>,
}

impl Wait {
    /// At most `patience` behind the last emptying, and twice that in all.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            whole: Duration::ZERO,
            since_emptied: Duration::ZERO,
            emptied: None,
        }
    }

    /// Whether that is over for a file that was emptied at `last`; if not, a moment has gone by on return.
    pub(super) fn is_over(&mut self, last: Option<Duration>) -> bool {
        if last != self.emptied {
            (self.emptied, self.since_emptied) = (last, Duration::ZERO);
        }
        if self.since_emptied >= self.patience || self.whole >= 2 * self.patience {
            return true;
        }
        std::thread::sleep(STEP);
        self.since_emptied += STEP;
        self.whole += STEP;
        false
    }
}

impl Volume {
    /// A file was cut to nothing, or was empty and is to be written anew. Its lock is held.
    pub(super) fn note_emptied(&self, ino: Ino) {
        let now = self.clock.boottime();
        self.unsaved.note_emptied(ino, now);
    }

    /// Whether a file was emptied a moment ago, and not saved since.
    pub(super) fn was_just_emptied(&self, ino: Ino) -> bool {
        let now = self.clock.boottime();
        let when = self.unsaved.emptied(ino);
        when.is_some_and(|when| now.saturating_sub(when.last) < REWRITE)
            && !self.without.lacks(Barrier::Rewrite)
    }

    /// When a file was emptied last that was not saved since, by [`crate::clock::Clock::boottime`].
    pub(super) fn last_emptied(&self, ino: Ino) -> Option<Duration> {
        self.unsaved.emptied(ino).map(|when| when.last)
    }

    /// Before a file is emptied once more, whose last save is long ago: what was written since is whole now.
    ///
    /// # Errors
    /// It cannot be made durable; want of room is none, since emptying a file makes some.
    pub(super) fn save_rewritten(&self, file: &File) -> Result<(), FsError> {
        let now = self.clock.boottime();
        let is_due = |when: Emptied| now.saturating_sub(when.first) >= REWRITE;
        let is_due = self.unsaved.emptied(file.ino).is_some_and(is_due);
        if !is_due {
            return Ok(());
        }
        match self.save(file) {
            Err(FsError::NoRoom) => Ok(()),
            saved => saved,
        }
    }
}
