//! The load: threads that create, write, fsync, link, rename, replace and delete until the drive is gone,
//! and write down what they did. What they do with bytes is in `bytes`.

use std::fs::{self, File as OsFile};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, CWD, RenameFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, getxattr, removexattr,
    renameat_with, setxattr, utimensat,
};
use rustix::io::Errno;

use super::bytes::Place;
use super::content::{Attributes, Seen, Time};
use super::model::{Covered, Entries, File, Found, Operation, Step, Worker};

#[path = "../../shared/dice.rs"]
mod dice;

pub(crate) use dice::Dice;

/// The extended attribute that is set.
const COLOUR: &str = "user.colour";

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
            0..18 => self.create(),
            18..28 => self.append(&files),
            28..39 => self.overwrite(&files),
            39..45 => self.resize(&files),
            45..51 => self.replace(&files),
            51..57 => self.rewrite(&files),
            57..62 => self.rename(&files),
            62..65 => self.rename_folder(),
            65..69 => self.remove(&files),
            69..72 => self.mkdir(),
            72..74 => self.rmdir(),
            74..77 => self.sync_folder(),
            77..80 => self.punch(&files),
            80..84 => self.store(&files),
            84..87 => self.remove_open(&files),
            87..90 => self.link(&files),
            90..93 => self.exchange(&files),
            93..95 => self.chmod(&files),
            95..98 => self.colour(&files),
            _ => self.set_time(&files),
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
            let mut options = OsFile::options();
            options.write(true).create_new(true).mode(0o600);
            made = Some(options.open(folder.join(path))?);
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
        let covered = self.covered(number);
        self.step(
            Step::Replace(temporary.clone(), path.clone(), covered),
            |folder| fs::rename(folder.join(&temporary), folder.join(&path)),
        )
    }

    /// All that was done to a file so far.
    fn covered(&self, number: usize) -> Covered {
        let contents = &self.worker.files[number].contents;
        Covered {
            file: number,
            content: contents.len() - 1,
            changes: contents.last().map_or(0, |content| content.changes.len()),
        }
    }

    /// One of `files`, and its number.
    pub(super) fn pick(&mut self, files: &[String]) -> Option<(String, usize)> {
        let path = self.dice.pick(files)?;
        let number = self.entries.get(&path).copied()??;
        Some((path, number))
    }

    fn link(&mut self, files: &[String]) -> io::Result<()> {
        let Some(path) = self.dice.pick(files) else {
            return Ok(());
        };
        let more = self.fresh("l");
        self.step(Step::Link(path.clone(), more.clone()), |folder| {
            fs::hard_link(folder.join(&path), folder.join(&more))
        })
    }

    /// Two files change their names.
    fn exchange(&mut self, files: &[String]) -> io::Result<()> {
        let (Some((one, first)), Some((other, second))) = (self.pick(files), self.pick(files))
        else {
            return Ok(());
        };
        if first == second {
            return Ok(());
        }
        let both = [self.covered(first), self.covered(second)];
        let step = Step::Exchange(one.clone(), other.clone(), both);
        self.step(step, |folder| {
            let (one, other) = (folder.join(&one), folder.join(&other));
            Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
        })
    }

    fn chmod(&mut self, files: &[String]) -> io::Result<()> {
        let Some((path, number)) = self.pick(files) else {
            return Ok(());
        };
        let mode = 0o600 | u32::try_from(self.dice.below(0o200)).unwrap_or(0);
        self.step(Step::Mode(number, mode), |folder| {
            fs::set_permissions(folder.join(&path), fs::Permissions::from_mode(mode))
        })
    }

    /// Sets an extended attribute, or takes it away.
    fn colour(&mut self, files: &[String]) -> io::Result<()> {
        let Some((path, number)) = self.pick(files) else {
            return Ok(());
        };
        let colour = self.counters.text();
        let takes = self.dice.below(4) == 0;
        let step = Step::Colour(number, (!takes).then_some(colour));
        self.step(step, |folder| {
            let path = folder.join(&path);
            let done = match takes {
                true => removexattr(&path, COLOUR),
                false => {
                    let value = colour.to_string();
                    setxattr(&path, COLOUR, value.as_bytes(), XattrFlags::empty())
                }
            };
            match done {
                Err(Errno::NODATA) => Ok(()),
                done => Ok(done?),
            }
        })
    }

    /// Sets the modification time of a file.
    fn set_time(&mut self, files: &[String]) -> io::Result<()> {
        let Some((path, number)) = self.pick(files) else {
            return Ok(());
        };
        let second = self.counters.text().cast_signed();
        let time = Time::Set(second * 1_000_000_000 + 7);
        self.worker.files[number].times.push(time);
        let keep = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let times = Timestamps {
            last_access: keep,
            last_modification: Timespec {
                tv_sec: second,
                tv_nsec: 7,
            },
        };
        let at = self.folder.join(&path);
        utimensat(CWD, &at, &times, AtFlags::empty())?;
        match self.dice.below(2) {
            0 => self.sync(number, &OsFile::open(&at)?),
            _ => Ok(()),
        }
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
                let seen = read_file(&entry.path())?;
                found.insert(path, Some(seen));
            }
        }
    }
    Ok(found)
}

fn read_file(path: &Path) -> io::Result<Seen> {
    let bytes = fs::read(path)?;
    let told = fs::metadata(path)?;
    if told.len() != bytes.len() as u64 {
        let path = path.display();
        return Err(io::Error::other(format!("{path}: stat and read disagree")));
    }
    let mut value = [0; 32];
    let colour = match getxattr(path, COLOUR, &mut value[..]) {
        Ok(len) => {
            let text = std::str::from_utf8(&value[..len]).map_err(io::Error::other)?;
            Some(text.parse().map_err(io::Error::other)?)
        }
        Err(Errno::NODATA) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Seen {
        bytes,
        attributes: Attributes {
            mode: told.mode() & 0o7777,
            colour,
        },
        mtime_ns: told.mtime() * 1_000_000_000 + told.mtime_nsec(),
        ino: told.ino(),
        links: told.nlink(),
    })
}
