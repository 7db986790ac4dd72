//! What a cut of the power may leave on the disks.
//!
//! Of each file: what was durable, and of what came since each sector in a state that it was in (so
//! writes are kept, lost, torn and reordered), with a length that the file had. Of each folder: the
//! names that were durable, and of what came since any. A sync that failed makes nothing durable, nor
//! does a later one of the same file: the kernel calls pages clean that it could not write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Event, FOLDERS, Left, index, overwrite};

/// How much of what was not synced is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    None,
    /// All of it.
    All,
    /// Any part.
    Some,
}

/// The disks of a machine in one moment.
#[derive(Clone, Default)]
pub struct Image {
    files: Vec<Held>,
    folders: [Names; FOLDERS],
}

/// A file: its durable bytes, and what came since.
#[derive(Clone, Default)]
struct Held {
    durable: Vec<u8>,
    pending: Vec<Change>,
    failed: bool,
}

#[derive(Clone)]
enum Change {
    Write(u64, Arc<[u8]>),
    SetLen(u64),
}

#[derive(Clone, Default)]
struct Names {
    durable: BTreeMap<String, usize>,
    pending: Vec<Named>,
}

#[derive(Clone)]
enum Named {
    Create(String, usize),
    Remove(String),
    Rename(String, String),
}

/// A number below that which is asked for.
pub(super) type Below<'a> = &'a mut dyn FnMut(u64) -> u64;

impl Image {
    /// A machine that found `left`, before anything happened.
    pub fn of(left: &Left) -> Self {
        let mut image = Self::default();
        for (names, files) in image.folders.iter_mut().zip(left) {
            for (name, bytes) in files {
                names.durable.insert(name.clone(), image.files.len());
                image.files.push(Held {
                    durable: bytes.clone(),
                    ..Held::default()
                });
            }
        }
        image
    }

    /// Goes on by one event.
    pub fn play(&mut self, event: &Event) {
        match event {
            Event::Create(folder, name, number) => {
                self.files
                    .resize_with(self.files.len().max(number + 1), Held::default);
                let named = Named::Create(name.clone(), *number);
                self.folders[*folder].pending.push(named);
            }
            Event::Remove(folder, name) => {
                let named = Named::Remove(name.clone());
                self.folders[*folder].pending.push(named);
            }
            Event::Rename(folder, name, to) => {
                let named = Named::Rename(name.clone(), to.clone());
                self.folders[*folder].pending.push(named);
            }
            Event::Write(file, offset, data) => {
                let change = Change::Write(*offset, Arc::clone(data));
                self.files[*file].pending.push(change);
            }
            Event::SetLen(file, len) => {
                self.files[*file].pending.push(Change::SetLen(*len));
            }
            Event::SyncData(file) => self.files[*file].sync(),
            Event::SyncFailed(file) => self.files[*file].failed = true,
            Event::SyncFolder(folder) => {
                let names = &mut self.folders[*folder];
                let pending = std::mem::take(&mut names.pending);
                rename(&mut names.durable, pending);
            }
        }
    }

    /// What is found after a cut in this moment, on a disk that writes sectors of `sector` bytes whole.
    pub fn cut(&self, kept: Kept, sector: usize, below: Below<'_>) -> Left {
        self.folders.each_ref().map(|names| {
            let mut found = names.durable.clone();
            rename(&mut found, names.kept(kept, below));
            let read =
                |number: usize, below: Below<'_>| self.files[number].cut(kept, sector, below);
            found
                .into_iter()
                .map(|(name, number)| (name, read(number, below)))
                .collect()
        })
    }
}

fn rename(names: &mut BTreeMap<String, usize>, changes: Vec<Named>) {
    for change in changes {
        match change {
            Named::Create(name, number) => drop(names.insert(name, number)),
            Named::Remove(name) => drop(names.remove(&name)),
            // Without its creation nothing is there that could be renamed.
            Named::Rename(name, to) => {
                if let Some(number) = names.remove(&name) {
                    names.insert(to, number);
                }
            }
        }
    }
}

impl Names {
    fn kept(&self, kept: Kept, below: Below<'_>) -> Vec<Named> {
        match kept {
            Kept::None => Vec::new(),
            Kept::All => self.pending.clone(),
            // Most file systems keep the order, not all.
            Kept::Some if below(2) == 0 => {
                let count = below(self.pending.len() as u64 + 1);
                self.pending[..index(count)].to_vec()
            }
            Kept::Some => {
                let of_pending = self.pending.iter();
                let any = of_pending.filter(|_| below(2) == 0);
                any.cloned().collect()
            }
        }
    }
}

impl Held {
    fn sync(&mut self) {
        if self.failed {
            return;
        }
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }

    fn cut(&self, kept: Kept, sector: usize, below: Below<'_>) -> Vec<u8> {
        let count = self.pending.len();
        // The length is the one after so many changes.
        let at = match kept {
            Kept::None => 0,
            Kept::All => count,
            Kept::Some => index(below(count as u64 + 1)),
        };
        if kept == Kept::All {
            let mut bytes = self.durable.clone();
            self.pending
                .iter()
                .for_each(|change| change.apply(&mut bytes));
            return bytes;
        }
        let mut len = self.durable.len();
        let mut lowest = len;
        for change in &self.pending[..at] {
            len = change.len_after(len);
            lowest = lowest.min(len);
        }
        let mut bytes = self.durable.clone();
        bytes.truncate(lowest);
        bytes.resize(len, 0);
        if kept == Kept::None {
            return bytes;
        }
        for (number, touching) in self.touched(sector) {
            let begin = number * sector;
            if begin >= len {
                continue;
            }
            let part = self.sector(begin, sector, at, &touching, below);
            let end = (begin + sector).min(len);
            bytes[begin..end].copy_from_slice(&part[..end - begin]);
        }
        bytes
    }

    /// The sectors that changed, each with the changes.
    fn touched(&self, sector: usize) -> BTreeMap<usize, Vec<usize>> {
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, change) in self.pending.iter().enumerate() {
            let (from, to) = match change {
                Change::Write(offset, data) => {
                    let begin = index(*offset);
                    (begin / sector, (begin + data.len()).div_ceil(sector))
                }
                Change::SetLen(len) => (index(*len) / sector, index(*len) / sector + 1),
            };
            for place in from..to {
                touched.entry(place).or_default().push(number);
            }
        }
        touched
    }

    /// A sector as it was in some moment, where the file's length is the one after `at` changes: not
    /// before it was cut off by one of these, and not after the next that cuts it off.
    fn sector(
        &self,
        begin: usize,
        sector: usize,
        at: usize,
        touching: &[usize],
        below: Below<'_>,
    ) -> Vec<u8> {
        let cuts = |change: &Change| matches!(change, Change::SetLen(len) if index(*len) <= begin);
        let from = self.pending[..at].iter().rposition(cuts);
        let from = from.map_or(0, |last| last + 1);
        let to = self.pending[at..].iter().position(cuts);
        let to = to.map_or(self.pending.len(), |next| at + next);
        let moment = match below(4) {
            0 => from,
            1 => to,
            _ => from + index(below((to - from) as u64 + 1)),
        };
        let mut part = vec![0; sector];
        if from == 0 {
            let end = self.durable.len().min(begin + sector);
            let there = self.durable.get(begin..end).unwrap_or_default();
            part[..there.len()].copy_from_slice(there);
        }
        let known: BTreeSet<usize> = touching.iter().copied().collect();
        for number in known.range(from..moment) {
            match &self.pending[*number] {
                Change::Write(offset, data) => {
                    let offset = index(*offset);
                    let (start, end) =
                        (offset.max(begin), (offset + data.len()).min(begin + sector));
                    part[start - begin..end - begin]
                        .copy_from_slice(&data[start - offset..end - offset]);
                }
                Change::SetLen(len) => part[index(*len) - begin..].fill(0),
            }
        }
        part
    }
}

impl Change {
    fn len_after(&self, len: usize) -> usize {
        match self {
            Self::Write(offset, data) => len.max(index(*offset) + data.len()),
            Self::SetLen(len) => index(*len),
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => overwrite(bytes, index(*offset), data),
            Self::SetLen(len) => bytes.resize(index(*len), 0),
        }
    }
}
