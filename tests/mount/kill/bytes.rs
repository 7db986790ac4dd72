//! What the load does with the bytes of a file.

use std::fs::File as OsFile;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use super::content::{Change, Content, Time};
use super::load::Load;
use super::mapping;
use super::model::Step;
use crate::samples::pattern;

/// No file grows beyond this.
const LONGEST: u64 = 4 << 20;
/// A file that is emptied and written anew within this time is the old or the new one.
const QUICK: Duration = Duration::from_millis(1500);

/// Where bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind the end.
    End,
    /// Over old bytes, here and there behind the end with a hole between.
    Anywhere,
}

impl Load<'_> {
    /// One to three writes, and an `fsync` now and then.
    pub(super) fn write_some(
        &mut self,
        number: usize,
        file: &OsFile,
        place: Place,
    ) -> io::Result<()> {
        for _ in 0..=self.dice.below(3) {
            let len = 1 + match self.dice.below(10) {
                0 => self.dice.below(400_000),
                1..4 => self.dice.below(40_000),
                _ => self.dice.below(5_000),
            };
            let end = self.newest(number).len();
            let offset = match (place, self.dice.below(12)) {
                (Place::End, _) => end,
                (Place::Anywhere, 0) => end + self.dice.below(2 << 20),
                (Place::Anywhere, _) => self.dice.below(end),
            };
            if offset + len > LONGEST {
                continue;
            }
            let text = self.counters.text();
            let change = Change::Write { text, offset, len };
            self.change(number, change);
            let len = usize::try_from(len).unwrap_or(0);
            file.write_all_at(&pattern(text, offset, len), offset)?;
        }
        self.sync_some(number, file)
    }

    /// An `fsync` now and then.
    fn sync_some(&mut self, number: usize, file: &OsFile) -> io::Result<()> {
        // Not for too long without: what may be there then has too many forms.
        let content = self.newest(number);
        let loose = content.changes.len() - content.synced;
        if self.dice.below(3) == 0 || loose > 8 {
            self.sync(number, file)?;
        }
        Ok(())
    }

    /// The bytes of a file are about to change.
    fn change(&mut self, number: usize, change: Change) {
        self.newest(number).changes.push(change);
        self.worker.files[number].times.push(Time::Moved);
    }

    pub(super) fn newest(&mut self, number: usize) -> &mut Content {
        let contents = &mut self.worker.files[number].contents;
        contents.last_mut().expect("a file has a content")
    }

    /// `fsync` of a file: its bytes and all names before it are durable.
    pub(super) fn sync(&mut self, number: usize, file: &OsFile) -> io::Result<()> {
        let times = self.worker.files[number].times.len();
        let content = self.newest(number);
        let changes = content.changes.len();
        // From the call on it may be there.
        content.whole.get_or_insert(changes);
        self.step(Step::Sync, |_| match number % 2 {
            0 => file.sync_all(),
            _ => file.sync_data(),
        })?;
        let content = self.newest(number);
        content.cover(changes);
        content.sync_acked = true;
        self.worker.files[number].past_times = times - 1;
        Ok(())
    }

    /// Opens one of `files` for writing, as `options` say besides.
    fn open_one(
        &mut self,
        files: &[String],
        options: &mut std::fs::OpenOptions,
    ) -> io::Result<Option<(usize, OsFile)>> {
        let Some((path, number)) = self.pick(files) else {
            return Ok(None);
        };
        let file = options.write(true).open(self.folder.join(&path))?;
        Ok(Some((number, file)))
    }

    pub(super) fn append(&mut self, files: &[String]) -> io::Result<()> {
        match self.open_one(files, &mut OsFile::options())? {
            Some((number, file)) => self.write_some(number, &file, Place::End),
            None => Ok(()),
        }
    }

    /// Writes over bytes that were synced, or published, long ago.
    pub(super) fn overwrite(&mut self, files: &[String]) -> io::Result<()> {
        match self.open_one(files, &mut OsFile::options())? {
            Some((number, file)) => self.write_some(number, &file, Place::Anywhere),
            None => Ok(()),
        }
    }

    /// Cuts a file somewhere, or extends it by a hole; goes on writing now and then.
    pub(super) fn resize(&mut self, files: &[String]) -> io::Result<()> {
        let Some((number, file)) = self.open_one(files, &mut OsFile::options())? else {
            return Ok(());
        };
        let len = self.newest(number).len();
        let to = match self.dice.below(3) {
            0 => (len + self.dice.below(300_000)).min(LONGEST),
            // To nothing is another matter: see `rewrite`.
            _ => 1 + self.dice.below(len),
        };
        self.change(number, Change::Resize(to));
        file.set_len(to)?;
        match self.dice.below(3) {
            0 => Ok(()),
            1 => self.sync(number, &file),
            _ => self.write_some(number, &file, Place::Anywhere),
        }
    }

    /// Punches a hole, now and then over the end.
    pub(super) fn punch(&mut self, files: &[String]) -> io::Result<()> {
        let Some((number, file)) = self.open_one(files, &mut OsFile::options())? else {
            return Ok(());
        };
        let end = self.newest(number).len();
        if end == 0 {
            // Behind the end there is nothing to punch, and no change.
            return Ok(());
        }
        let offset = self.dice.below(end);
        let more = 1 + match self.dice.below(3) {
            0 => self.dice.below(2 << 20),
            _ => self.dice.below(40_000),
        };
        let len = more.min(end - offset);
        self.change(number, Change::Punch { offset, len });
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, mode, offset, more)?;
        self.sync_some(number, &file)
    }

    /// Stores through a mapping.
    pub(super) fn store(&mut self, files: &[String]) -> io::Result<()> {
        let Some((number, file)) = self.open_one(files, OsFile::options().read(true))? else {
            return Ok(());
        };
        let end = self.newest(number).len();
        if end == 0 {
            return Ok(());
        }
        let offset = self.dice.below(end);
        let len = (1 + self.dice.below(40_000)).min(end - offset);
        let text = self.counters.text();
        self.change(number, Change::Write { text, offset, len });
        let bytes = pattern(text, offset, usize::try_from(len).unwrap_or(0));
        mapping::store(&file, offset, &bytes, self.dice.below(2) == 0)?;
        self.sync_some(number, &file)
    }

    /// Removes a name of a file that is open, and goes on writing there.
    pub(super) fn remove_open(&mut self, files: &[String]) -> io::Result<()> {
        let Some((path, number)) = self.pick(files) else {
            return Ok(());
        };
        let at = self.folder.join(&path);
        let file = OsFile::options().write(true).open(at)?;
        self.step(Step::Remove(path.clone()), |folder| {
            std::fs::remove_file(folder.join(&path))
        })?;
        self.write_some(number, &file, Place::Anywhere)
    }

    /// Empties a file and writes it anew.
    pub(super) fn rewrite(&mut self, files: &[String]) -> io::Result<()> {
        let Some((path, number)) = self.pick(files) else {
            return Ok(());
        };
        let was_empty = self.newest(number).len() == 0;
        let file = &mut self.worker.files[number];
        file.contents.push(Content::default());
        file.times.push(Time::Moved);
        if was_empty {
            // There is no old one to keep: it is a new file that grows.
            self.newest(number).whole = Some(0);
        }
        let begun = Instant::now();
        let opened = OsFile::options()
            .write(true)
            .truncate(true)
            .open(self.folder.join(&path));
        let written = opened.and_then(|file| self.write_some(number, &file, Place::End));
        let is_over = written.is_ok();
        let content = self.newest(number);
        let changes = content.changes.len();
        if begun.elapsed() > QUICK {
            content.whole.get_or_insert(0);
        } else if is_over {
            content.whole.get_or_insert(changes);
        }
        written
    }
}
