//! The load: threads that create, write, fsync, rename, replace and delete until the drive is gone,
//! and write down what they did. What they do with bytes is in `bytes`.

use std::fs::{self, File as OsFile};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::bytes::Place;
use super::model::{Covered, Entries, File, Found, Operation, Step, Worker};

#[path = "../../shared/dice.rs"]
mod dice;

pub(crate) use dice::Dice;

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

    pub(super) fn text(&self) -> u64 {
        self.text.fetch_add(1, Ordering::SeqCst) + 1
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
            0..22 => self.create(),
            22..34 => self.append(&files),
            34..48 => self.overwrite(&files),
            48..56 => self.resize(&files),
            56..64 => self.replace(&files),
            64..72 => self.rewrite(&files),
            72..79 => self.rename(&files),
            79..83 => self.rename_folder(),
            83..90 => self.remove(&files),
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
    pub(super) fn step(
        &mut self,
        step: Step,
        act: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
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
        self.worker.files.push(File::new());
        let mut made = None;
        self.step(Step::Create(path.to_owned(), number), |folder| {
            made = Some(OsFile::create_new(folder.join(path))?);
            Ok(())
        })?;
        Ok((number, made.expect("made just now")))
    }

    fn create(&mut self) -> io::Result<()> {
        let path = self.fresh("f");
        let (number, file) = self.new_file(&path)?;
        self.write_some(number, &file, Place::End)
    }

    /// Writes a new file and renames it over an old one.
    fn replace(&mut self, files: &[String]) -> io::Result<()> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(());
        };
        let temporary = self.fresh("t");
        let (number, file) = self.new_file(&temporary)?;
        self.write_some(number, &file, Place::End)?;
        drop(file);
        let covered = Covered {
            file: number,
            content: 0,
            changes: self.newest(number).changes.len(),
        };
        self.step(
            Step::Replace(temporary.clone(), path.clone(), covered),
            |folder| fs::rename(folder.join(&temporary), folder.join(&path)),
        )
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
