//! What a file may hold after a power cut: the bytes of its last `fsync`, and of what came after it
//! any part in blocks, or nothing. A block in which some write has begun or ended is several, divided
//! there. A file that was emptied and written anew is the old one or the new one.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// One change of a content.
#[derive(Clone)]
pub(super) enum Change {
    /// These bytes at this offset.
    Write(u64, Arc<[u8]>),
    /// This length.
    Resize(u64),
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(offset, data) => write!(f, "{} bytes at {offset}", data.len()),
            Self::Resize(len) => write!(f, "length {len}"),
        }
    }
}

impl Change {
    fn len_after(&self, len: u64) -> u64 {
        match self {
            Self::Write(_, data) if data.is_empty() => len,
            Self::Write(offset, data) => len.max(offset + data.len() as u64),
            Self::Resize(len) => *len,
        }
    }

    fn edges(&self) -> [u64; 2] {
        match self {
            Self::Write(offset, data) => [*offset, offset + data.len() as u64],
            Self::Resize(len) => [*len, *len],
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        bytes.resize(index(self.len_after(bytes.len() as u64)), 0);
        self.apply_part(0, bytes);
    }

    /// Applies it to the part of a file from `begin` on; what lies behind the end is zero.
    fn apply_part(&self, begin: u64, part: &mut [u8]) -> bool {
        let end = begin + part.len() as u64;
        match self {
            Self::Write(offset, data) => {
                let (from, to) = ((*offset).max(begin), (offset + data.len() as u64).min(end));
                if from >= to {
                    return false;
                }
                part[index(from - begin)..index(to - begin)]
                    .copy_from_slice(&data[index(from - offset)..index(to - offset)]);
            }
            Self::Resize(len) if *len < end => part[index(len.saturating_sub(begin))..].fill(0),
            Self::Resize(_) => return false,
        }
        true
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("files of these tests fit the memory")
}

/// One content of a file: what is known to be durable, and the changes since.
#[derive(Clone, Debug)]
pub(super) struct Content {
    solid: Vec<u8>,
    /// How many changes `solid` holds.
    first: usize,
    changes: Vec<Change>,
    /// An acknowledged sync came after this content was begun.
    synced: bool,
    /// How many changes must be there if this content is there at all; `None` where it must not be.
    whole: Option<usize>,
}

impl Content {
    fn total(&self) -> usize {
        self.first + self.changes.len()
    }

    fn cover(&mut self, total: usize) {
        let count = total.saturating_sub(self.first);
        for change in self.changes.drain(..count) {
            change.apply(&mut self.solid);
        }
        self.first += count;
    }

    fn bytes(&self, total: usize) -> Vec<u8> {
        let mut bytes = self.solid.clone();
        for change in &self.changes[..total.saturating_sub(self.first)] {
            change.apply(&mut bytes);
        }
        bytes
    }

    /// What is wrong with `found` if it should be this content, with at least `least` changes.
    fn fault(
        &self,
        edges: &BTreeSet<u64>,
        least: usize,
        block: u64,
        found: &[u8],
    ) -> Option<String> {
        let Some(whole) = self.whole else {
            return Some("its rewriting was not over".to_owned());
        };
        let least = self.first.max(whole).max(least);
        let base = self.bytes(least);
        if base == found {
            return None;
        }
        let loose = &self.changes[least - self.first..];
        let mut why = format!(
            "{} bytes, but {} were synced, and then came {loose:?}",
            found.len(),
            base.len(),
        );
        let mut len = base.len() as u64;
        for moment in 0..=loose.len() {
            if let Some(last) = moment.checked_sub(1) {
                len = loose[last].len_after(len);
            }
            if len == found.len() as u64 {
                match fault_at(&base, loose, moment, edges, block, found) {
                    Some(fault) => why = fault,
                    None => return None,
                }
            }
        }
        Some(why)
    }
}

/// What is wrong with `found` as a file whose length is the one after `moment` changes.
fn fault_at(
    base: &[u8],
    loose: &[Change],
    moment: usize,
    edges: &BTreeSet<u64>,
    block: u64,
    found: &[u8],
) -> Option<String> {
    let end = found.len() as u64;
    let mut begin = 0;
    while begin < end {
        let next = (begin / block + 1) * block;
        let edge = edges.range(begin + 1..next).next().copied();
        let to = edge.unwrap_or(next).min(end);
        let part = &found[index(begin)..index(to)];
        if !explained(base, loose, moment, begin, part) {
            return Some(format!(
                "from {begin} to {to} it holds {}, neither what was synced nor what was written since: {loose:?}",
                runs(part),
            ));
        }
        begin = to;
    }
    None
}

/// Whether `part` is what lay there after some of the changes: none that was cut off before `moment`.
fn explained(base: &[u8], loose: &[Change], moment: usize, begin: u64, part: &[u8]) -> bool {
    let cut_off = |change: &Change| matches!(change, Change::Resize(len) if *len <= begin);
    let from = loose[..moment].iter().rposition(cut_off);
    let mut way = vec![0; part.len()];
    if from.is_none() {
        let start = index(begin).min(base.len());
        let there = &base[start..base.len().min(start + part.len())];
        way[..there.len()].copy_from_slice(there);
    }
    let later = &loose[from.map_or(0, |last| last + 1)..];
    way == part
        || later
            .iter()
            .any(|change| change.apply_part(begin, &mut way) && way == part)
}

fn runs(part: &[u8]) -> String {
    let zeros = part.iter().filter(|byte| **byte == 0).count();
    format!("{} bytes, {zeros} of them zero", part.len())
}

/// One file over its names: the contents that it had, the newest last. A new one begins when the file
/// is emptied.
#[derive(Clone, Debug)]
pub(super) struct File {
    contents: Vec<Content>,
    edges: BTreeSet<u64>,
    /// The times that its bytes gave it since it was durable last, and how many before.
    times: Vec<Times>,
    first_time: usize,
}

/// When a file was modified, and when it was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
}

impl Times {
    /// Of a file whose bytes were changed at that time.
    pub(super) fn at(now_ns: i64) -> Self {
        Self {
            mtime_ns: now_ns,
            ctime_ns: now_ns,
        }
    }
}

/// So much of a file must be there where something else is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) ino: u64,
    content: usize,
    total: usize,
    /// The last of its times by then.
    time: usize,
}

impl File {
    /// One of which it is known what it holds, and when that was changed.
    pub(super) fn known(bytes: &[u8], times: Times) -> Self {
        Self {
            contents: vec![Content {
                solid: bytes.to_vec(),
                first: 0,
                changes: Vec::new(),
                synced: true,
                whole: Some(0),
            }],
            edges: BTreeSet::new(),
            times: vec![times],
            first_time: 0,
        }
    }

    /// The same file, of which it is known now what it holds.
    pub(super) fn known_again(&self, bytes: &[u8], times: Times) -> Self {
        Self {
            edges: self.edges.clone(),
            ..Self::known(bytes, times)
        }
    }

    /// It has these times from now on.
    pub(super) fn note_times(&mut self, times: Times) {
        self.times.push(times);
    }

    /// Whether it may have the times `found` after a power cut, where it was changed at `named_ns` by what was
    /// done to its names and attributes.
    pub(super) fn may_be_of(&self, needs: &[Need], named_ns: i64, found: Times) -> bool {
        let least = needs.iter().map(|need| need.time).max().unwrap_or(0);
        let from = least.saturating_sub(self.first_time);
        let told = |times: &Times| Times {
            ctime_ns: times.ctime_ns.max(named_ns),
            ..*times
        };
        self.times[from..].iter().any(|times| told(times) == found)
    }

    fn newest(&mut self) -> &mut Content {
        self.contents.last_mut().expect("a file has a content")
    }

    /// It changes, from the call on.
    pub(super) fn change(&mut self, change: Change) {
        self.edges.extend(change.edges());
        self.newest().changes.push(change);
    }

    /// It is emptied, if it is not empty.
    pub(super) fn empty(&mut self) {
        if self.len() == 0 {
            return;
        }
        self.contents.push(Content {
            solid: Vec::new(),
            first: 0,
            changes: Vec::new(),
            synced: false,
            whole: None,
        });
    }

    /// It may be there as it is from now on, as little of it as that is.
    pub(super) fn may_stand(&mut self) {
        let newest = self.newest();
        newest.whole.get_or_insert(newest.first);
    }

    /// What was begun anew is whole now.
    pub(super) fn is_whole(&mut self) {
        let newest = self.newest();
        let total = newest.total();
        newest.whole.get_or_insert(total);
    }

    /// Whether what was begun anew is not whole yet.
    pub(super) fn is_begun(&self) -> bool {
        self.contents
            .last()
            .is_some_and(|content| content.whole.is_none())
    }

    /// So much of it is durable.
    pub(super) fn cover_as(&mut self, need: &Need) {
        if let Some(content) = self.contents.get_mut(need.content) {
            content.synced = true;
            content.cover(need.total);
        }
        let gone = need.time.saturating_sub(self.first_time);
        self.times.drain(..gone);
        self.first_time += gone;
    }

    /// What it holds now, as what else is done may need it.
    pub(super) fn need(&self, ino: u64) -> Need {
        Need {
            ino,
            content: self.contents.len() - 1,
            total: self.contents.last().map_or(0, Content::total),
            time: self.first_time + self.times.len() - 1,
        }
    }

    /// All its bytes, as acknowledged.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let newest = self.contents.last().expect("a file has a content");
        newest.bytes(newest.total())
    }

    /// Its length, as acknowledged.
    pub(super) fn len(&self) -> u64 {
        let newest = self.contents.last().expect("a file has a content");
        let changes = newest.changes.iter();
        changes.fold(newest.solid.len() as u64, |len, change| {
            change.len_after(len)
        })
    }

    /// What is wrong with `found` after a power cut.
    pub(super) fn fault(&self, needs: &[Need], block: u64, found: &[u8]) -> Option<String> {
        let synced = self.contents.iter().rposition(|content| content.synced);
        let needed = needs.iter().map(|need| need.content).max();
        let from = synced.unwrap_or(0).max(needed.unwrap_or(0));
        let mut faults = Vec::new();
        for (number, content) in self.contents.iter().enumerate().skip(from) {
            let least = needs.iter().filter(|need| need.content == number);
            let least = least.map(|need| need.total).max().unwrap_or(0);
            match content.fault(&self.edges, least, block, found) {
                Some(fault) => faults.push(fault),
                None => return None,
            }
        }
        Some(faults.join("; or "))
    }
}
