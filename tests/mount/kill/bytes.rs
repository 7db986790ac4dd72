//! What the load does with the bytes of a file.

use std::fs::File as OsFile;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::content::{Change, Content};
use super::load::Load;
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
            self.newest(number).changes.push(change);
            let len = usize::try_from(len).unwrap_or(0);
            file.write_all_at(&pattern(text, offset, len), offset)?;
        }
        // Not for too long without: what may be there then has too many forms.
        let content = self.newest(number);
        let loose = content.changes.len() - content.synced;
        if self.dice.below(3) == 0 || loose > 8 {
            self.sync(number, file)?;
        }
        Ok(())
    }

    pub(super) fn newest(&mut self, number: usize) -> &mut Content {
        let contents = &mut self.worker.files[number].contents;
        contents.last_mut().expect("a file has a content")
    }

    /// `fsync` of a file: its bytes and all names before it are durable.
    fn sync(&mut self, number: usize, file: &OsFile) -> io::Result<()> {
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
        Ok(())
    }

    /// Opens one of `files` for writing, as `options` say besides.
    fn open_one(
        &mut self,
        files: &[String],
        options: &mut std::fs::OpenOptions,
    ) -> io::Result<Option<(usize, OsFile)>> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(None);
        };
        let Some(Some(number)) = self.entries.get(&path).copied() else {
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
        self.newest(number).changes.push(Change::Resize(to));
        file.set_len(to)?;
        match self.dice.below(3) {
            0 => Ok(()),
            1 => self.sync(number, &file),
            _ => self.write_some(number, &file, Place::Anywhere),
        }
    }

    /// Empties a file and writes it anew.
    pub(super) fn rewrite(&mut self, files: &[String]) -> io::Result<()> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(());
        };
        let Some(Some(number)) = self.entries.get(&path).copied() else {
            return Ok(());
        };
        let was_empty = self.newest(number).len() == 0;
        self.worker.files[number].contents.push(Content::default());
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
