//! The load: threads that create, append, fsync, rename, replace, empty and delete until the drive
//! is gone, and write down what they did.

use std::fs::{self, File as OsFile};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::model::{Content, Covered, Entries, File, Found, Operation, Step, Worker};
use crate::samples::pattern;

/// Files that a thread keeps at most; beyond it deletes.
const MOST_FILES: usize = 40;

/// Time as the threads see it, and numbers that are never used twice.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    time: AtomicU64,
    text: AtomicU64,
}

impl Counters {
    fn tick(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    fn text(&self) -> u64 {
        self.text.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// A small random number generator (splitmix64), so that a failing run can be told by its seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound.max(1)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let n = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of.get(n).cloned()
    }
}

/// One thread at work in `folder`.
pub(crate) struct Load<'a> {
    /// Where it works.
    pub folder: PathBuf,
    /// What it did.
    pub worker: Worker,
    /// The entries now.
    pub entries: Entries,
    /// Its luck.
    pub dice: Dice,
    /// Shared with the others.
    pub counters: &'a Counters,
}

impl Load<'_> {
    /// Works until a call fails, which the crash makes it do; the failure. What was done stands in
    /// `worker`.
    pub(crate) fn run(&mut self) -> io::Error {
        loop {
            if let Err(why) = self.one() {
                return why;
            }
        }
    }

    /// One random act.
    fn one(&mut self) -> io::Result<()> {
        let files: Vec<String> = self.paths(true);
        if files.len() > MOST_FILES {
            return self.remove(&files);
        }
        match self.dice.below(100) {
            0..25 => self.create(),
            25..50 => self.append(&files),
            50..60 => self.replace(&files),
            60..67 => self.rewrite(&files),
            67..77 => self.rename(&files),
            77..82 => self.rename_folder(),
            82..90 => self.remove(&files),
            90..94 => self.mkdir(),
            94..97 => self.rmdir(),
            _ => self.sync_folder(),
        }
    }

    /// Paths of files, or of directories.
    fn paths(&self, of_files: bool) -> Vec<String> {
        let of_kind = self
            .entries
            .iter()
            .filter(|(_, file)| file.is_some() == of_files);
        of_kind.map(|(path, _)| path.clone()).collect()
    }

    /// A path that was never used, in the folder or one of its directories.
    fn fresh(&mut self, kind: &str) -> String {
        let name = format!("{kind}{}", self.counters.text());
        let folders = self.paths(false);
        match self.dice.below(3) {
            0 => name,
            _ => self
                .dice
                .pick(&folders)
                .map_or(name.clone(), |folder| format!("{folder}/{name}")),
        }
    }

    /// Does `act` on names and writes it down.
    fn step(&mut self, step: Step, act: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let begun = self.counters.tick();
        self.worker.operations.push(Operation {
            step,
            begun,
            acked: None,
        });
        act(&self.folder)?;
        let acked = self.counters.tick();
        if let Some(operation) = self.worker.operations.last_mut() {
            operation.acked = Some(acked);
            operation.step.apply(&mut self.entries);
        }
        Ok(())
    }

    /// Makes a new file at `path`; its number.
    fn new_file(&mut self, path: &str) -> io::Result<(usize, OsFile)> {
        let number = self.worker.files.len();
        self.worker.files.push(File::new(self.counters.text()));
        let mut made = None;
        self.step(Step::Create(path.to_owned(), number), |folder| {
            made = Some(OsFile::create_new(folder.join(path))?);
            Ok(())
        })?;
        Ok((number, made.expect("made just now")))
    }

    /// Appends to a file, in one to three writes, and syncs it now and then.
    fn write(&mut self, number: usize, file: &OsFile) -> io::Result<()> {
        for _ in 0..=self.dice.below(3) {
            let len = match self.dice.below(10) {
                0 => self.dice.below(300_000),
                1..4 => self.dice.below(40_000),
                _ => self.dice.below(5_000),
            };
            let content = self.newest(number);
            let (id, at) = (content.id, content.written);
            // Before the call: some of it may be there even if the call never returns.
            content.written += len;
            file.write_all_at(&pattern(id, at, usize::try_from(len).unwrap_or(0)), at)?;
        }
        if self.dice.below(3) == 0 {
            self.sync(number, file)?;
        }
        Ok(())
    }

    fn newest(&mut self, number: usize) -> &mut Content {
        self.worker.files[number]
            .contents
            .last_mut()
            .expect("a file has a content")
    }

    /// `fsync` of a file: its bytes and all names before it are durable.
    fn sync(&mut self, number: usize, file: &OsFile) -> io::Result<()> {
        self.step(Step::Sync, |_| match number % 2 {
            0 => file.sync_all(),
            _ => file.sync_data(),
        })?;
        let content = self.newest(number);
        content.synced = content.written;
        content.sync_acked = true;
        Ok(())
    }

    fn create(&mut self) -> io::Result<()> {
        let path = self.fresh("f");
        let (number, file) = self.new_file(&path)?;
        self.write(number, &file)
    }

    fn append(&mut self, files: &[String]) -> io::Result<()> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(());
        };
        let Some(Some(number)) = self.entries.get(&path).copied() else {
            return Ok(());
        };
        let file = OsFile::options()
            .write(true)
            .open(self.folder.join(&path))?;
        self.write(number, &file)
    }

    /// Writes a new file and renames it over an old one.
    fn replace(&mut self, files: &[String]) -> io::Result<()> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(());
        };
        let temporary = self.fresh("t");
        let (number, file) = self.new_file(&temporary)?;
        self.write(number, &file)?;
        drop(file);
        let covered = Covered {
            file: number,
            content: 0,
            len: self.newest(number).written,
        };
        self.step(
            Step::Replace(temporary.clone(), path.clone(), covered),
            |folder| fs::rename(folder.join(&temporary), folder.join(&path)),
        )
    }

    /// Empties a file and writes another text into it.
    fn rewrite(&mut self, files: &[String]) -> io::Result<()> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(());
        };
        let Some(Some(number)) = self.entries.get(&path).copied() else {
            return Ok(());
        };
        let next = File::new(self.counters.text());
        self.worker.files[number].contents.extend(next.contents);
        let file = OsFile::options()
            .write(true)
            .truncate(true)
            .open(self.folder.join(&path))?;
        self.write(number, &file)
    }

    fn move_to(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step(Step::Rename(from.to_owned(), to.to_owned()), |folder| {
            fs::rename(folder.join(from), folder.join(to))
        })
    }

    fn rename(&mut self, files: &[String]) -> io::Result<()> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(());
        };
        let to = self.fresh("r");
        self.move_to(&path, &to)
    }

    /// Renames a directory with all that is in it.
    fn rename_folder(&mut self) -> io::Result<()> {
        let folders = self.paths(false);
        let Some(path) = self.dice.pick(&folders) else {
            return Ok(());
        };
        let to = format!("d{}", self.counters.text());
        self.move_to(&path, &to)
    }

    fn remove(&mut self, files: &[String]) -> io::Result<()> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(());
        };
        self.step(Step::Remove(path.clone()), |folder| {
            fs::remove_file(folder.join(&path))
        })
    }

    fn mkdir(&mut self) -> io::Result<()> {
        if self.paths(false).len() >= 6 {
            return Ok(());
        }
        let path = format!("d{}", self.counters.text());
        self.step(Step::Mkdir(path.clone()), |folder| {
            fs::create_dir(folder.join(&path))
        })
    }

    fn rmdir(&mut self) -> io::Result<()> {
        let empty = self.paths(false).into_iter().find(|folder| {
            let below = format!("{folder}/");
            !self.entries.keys().any(|path| path.starts_with(&below))
        });
        let Some(path) = empty else { return Ok(()) };
        self.step(Step::Remove(path.clone()), |folder| {
            fs::remove_dir(folder.join(&path))
        })
    }

    /// `fsync` of a directory.
    fn sync_folder(&mut self) -> io::Result<()> {
        self.step(Step::Sync, |folder| OsFile::open(folder)?.sync_all())
    }
}

/// Reads all that is below `folder`.
pub(crate) fn read_folder(folder: &Path) -> io::Result<Found> {
    let mut found = Found::new();
    let mut folders = vec![String::new()];
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|name| io::Error::other(format!("{name:?}")))?;
            let path = if below.is_empty() {
                name
            } else {
                format!("{below}/{name}")
            };
            if entry.file_type()?.is_dir() {
                folders.push(path.clone());
                found.insert(path, None);
            } else {
                let bytes = fs::read(entry.path())?;
                if entry.metadata()?.len() != bytes.len() as u64 {
                    return Err(io::Error::other(format!("{path}: stat and read disagree")));
                }
                found.insert(path, Some(bytes));
            }
        }
    }
    Ok(found)
}
