//! What a file may hold after a crash: its bytes as last synced, and of every change since then any
//! part, 4 KiB by 4 KiB, or none. A block in which some write has begun or ended is two, divided
//! there.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::samples::pattern;

/// The unit in which a change that was not synced is there or not.
const BLOCK: u64 = 4096;
/// How many ways to come to a block's bytes are looked at.
const WAYS: usize = 1 << 12;

/// One change of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The bytes of text `text` (see [`pattern`]), each at its own place.
    Write {
        /// Which text; no two writes have the same.
        text: u64,
        /// The first byte.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// A new length.
    Resize(u64),
    /// A hole in what is there.
    Punch {
        /// The first byte.
        offset: u64,
        /// How many.
        len: u64,
    },
}

impl Change {
    /// The length after it, of a file that had `len` bytes.
    fn len_after(&self, len: u64) -> u64 {
        match *self {
            Self::Write {
                offset, len: more, ..
            } => len.max(offset + more),
            Self::Resize(len) => len,
            Self::Punch { .. } => len,
        }
    }

    /// Where it divides a block.
    fn edges(&self) -> [u64; 2] {
        match *self {
            Self::Write { offset, len, .. } | Self::Punch { offset, len } => [offset, offset + len],
            Self::Resize(len) => [len, len],
        }
    }

    /// Applies it to the part of a file from `begin` on; what is behind the end is zero. False when
    /// it does not concern that part.
    fn apply(&self, begin: u64, part: &mut [u8]) -> bool {
        let end = begin + part.len() as u64;
        let (from, to) = match *self {
            Self::Write { offset, len, .. } | Self::Punch { offset, len } => {
                (offset.max(begin), (offset + len).min(end))
            }
            Self::Resize(len) => (len.max(begin), end),
        };
        if from >= to {
            return false;
        }
        let place = &mut part[index(from - begin)..index(to - begin)];
        match *self {
            Self::Write { text, .. } => {
                place.copy_from_slice(&pattern(text, from, index(to - from)));
            }
            Self::Resize(_) | Self::Punch { .. } => place.fill(0),
        }
        true
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("files of these tests fit the memory")
}

/// One content of a file: what was known to be durable, and the changes since, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// The bytes before the first change.
    pub base: Arc<Vec<u8>>,
    /// Noted before the call: some of it may be there even if the call never returns.
    pub changes: Vec<Change>,
    /// How many of them an acknowledged `fsync` covered.
    pub synced: usize,
    /// Whether an acknowledged `fsync` came after this content was begun.
    pub sync_acked: bool,
    /// How many changes must be there if this content is there at all; `None` where it must not be.
    pub whole: Option<usize>,
}

impl Content {
    /// One that is known for certain.
    pub(crate) fn known(bytes: &[u8]) -> Self {
        Self {
            base: Arc::new(bytes.to_vec()),
            sync_acked: true,
            whole: Some(0),
            ..Self::default()
        }
    }

    /// Its length, as acknowledged.
    pub(crate) fn len(&self) -> u64 {
        let base = self.base.len() as u64;
        let lens = self.changes.iter();
        lens.fold(base, |len, change| change.len_after(len))
    }

    /// All changes so far must be there from now on.
    pub(crate) fn cover(&mut self, changes: usize) {
        self.synced = self.synced.max(changes);
    }

    /// What is wrong with `found` if it should be this content; `edges` divide blocks.
    fn fault(&self, edges: &BTreeSet<u64>, found: &[u8]) -> Option<String> {
        let Some(whole) = self.whole else {
            return Some("its rewriting was not over".to_owned());
        };
        let (covered, loose) = self.changes.split_at(self.synced.max(whole));
        let mut bytes = self.base.to_vec();
        for change in covered {
            bytes.resize(index(change.len_after(bytes.len() as u64)), 0);
            change.apply(0, &mut bytes);
        }
        if !lens(bytes.len() as u64, loose)
            .iter()
            .any(|&(from, to)| (from..=to).contains(&(found.len() as u64)))
        {
            return Some(format!(
                "{} bytes, {} were synced, then came {loose:?}",
                found.len(),
                bytes.len()
            ));
        }
        bytes.resize(bytes.len().max(found.len()), 0);
        let end = found.len() as u64;
        let mut begin = 0;
        while begin < end {
            let block = (begin / BLOCK + 1) * BLOCK;
            let edge = edges.range(begin + 1..block).next().copied();
            let to = edge.unwrap_or(block).min(end);
            let part = index(begin)..index(to);
            let found = &found[part.clone()];
            if !explained(begin, &bytes[part], loose, found) {
                return Some(format!(
                    "from {begin} to {to} it holds {}: neither as synced, by {covered:?}, nor with any of {loose:?}",
                    self.origin(begin, found)
                ));
            }
            begin = to;
        }
        None
    }

    /// Whose bytes `found` are, from `begin` on.
    fn origin(&self, begin: u64, found: &[u8]) -> String {
        let mut runs: Vec<(String, usize)> = Vec::new();
        for (at, byte) in (begin..).zip(found) {
            let written = self.changes.iter().rev().find_map(|change| match *change {
                Change::Write { text, offset, len } if (offset..offset + len).contains(&at) => {
                    (pattern(text, at, 1) == [*byte]).then(|| format!("text {text}"))
                }
                _ => None,
            });
            let whose = written.unwrap_or_else(|| match self.base.get(index(at)) {
                Some(old) if old == byte => "what was there".to_owned(),
                _ if *byte == 0 => "zeros".to_owned(),
                _ => "foreign bytes".to_owned(),
            });
            match runs.last_mut() {
                Some((last, count)) if *last == whose => *count += 1,
                _ => runs.push((whose, 1)),
            }
        }
        runs.truncate(8);
        format!("{runs:?}")
    }
}

/// The lengths that a file has while `changes` are made, as ranges: a write may be there in part.
fn lens(len: u64, changes: &[Change]) -> Vec<(u64, u64)> {
    let mut lens = vec![(len, len)];
    let mut len = len;
    for change in changes {
        let after = change.len_after(len);
        lens.push(match change {
            Change::Write { .. } => (len, after),
            Change::Resize(_) | Change::Punch { .. } => (after, after),
        });
        len = after;
    }
    lens
}

/// Whether some of the changes, in order, make `found` of `solid`.
fn explained(begin: u64, solid: &[u8], changes: &[Change], found: &[u8]) -> bool {
    let mut ways = vec![solid.to_vec()];
    for change in changes {
        let mut more = Vec::new();
        for way in &ways {
            let mut way = way.clone();
            if change.apply(begin, &mut way) && !ways.contains(&way) && !more.contains(&way) {
                more.push(way);
            }
        }
        ways.extend(more);
        assert!(ways.len() <= WAYS, "too much was written without an fsync");
    }
    ways.iter().any(|way| way == found)
}

/// What of an inode is changed in order with the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// The number in its extended attribute.
    pub colour: Option<u64>,
}

impl Default for Attributes {
    /// Those of a new file.
    fn default() -> Self {
        Self {
            mode: 0o600,
            colour: None,
        }
    }
}

/// A modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// This one, in ns since 1970.
    Set(i64),
    /// That of a change of its bytes: later than any that is set.
    Moved,
}

impl Time {
    /// Before any change that is made here, and after any time that is set: ns since 1970.
    pub(crate) const MOVED_NS: i64 = 1_600_000_000_000_000_000;

    fn is(self, mtime_ns: i64) -> bool {
        match self {
            Self::Set(set_ns) => mtime_ns == set_ns,
            Self::Moved => mtime_ns > Self::MOVED_NS,
        }
    }
}

/// One file over its names: the contents it had since it was last known, the newest last. A new one
/// begins when the file is truncated to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct File {
    /// Never empty.
    pub contents: Vec<Content>,
    /// Where writes have begun and ended before the last crash.
    pub edges: BTreeSet<u64>,
    /// Those that it begins with.
    pub attributes: Attributes,
    /// The modification times that it had, and how many of them came before one that was synced.
    pub times: Vec<Time>,
    pub past_times: usize,
}

/// A file as it is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// All of it.
    pub bytes: Vec<u8>,
    /// What else is told of it.
    pub attributes: Attributes,
    /// When it was modified, ns since 1970.
    pub mtime_ns: i64,
    /// Its number, and how many names that has.
    pub ino: u64,
    /// Names, as it says.
    pub links: u64,
}

impl File {
    /// A new file with nothing in it.
    pub(crate) fn new() -> Self {
        let content = Content {
            whole: Some(0),
            ..Content::default()
        };
        Self {
            contents: vec![content],
            times: vec![Time::Moved],
            ..Self::default()
        }
    }

    /// The same file, of which it is known now what it is.
    pub(crate) fn known(&self, seen: &Seen) -> Self {
        Self {
            contents: vec![Content::known(&seen.bytes)],
            edges: self.all_edges(),
            attributes: seen.attributes,
            times: vec![Time::Set(seen.mtime_ns)],
            past_times: 0,
        }
    }

    /// What is wrong with what was found of this file after a crash, but for its names.
    pub(crate) fn fault_in(&self, seen: &Seen) -> Option<String> {
        if seen.attributes != self.attributes {
            let (found, known) = (seen.attributes, self.attributes);
            return Some(format!("{found:?}, which should be {known:?}"));
        }
        let times = self.times.get(self.past_times..).unwrap_or_default();
        if !times.iter().any(|time| time.is(seen.mtime_ns)) {
            let found = seen.mtime_ns;
            return Some(format!(
                "modified at {found} ns, which should be one of {times:?}"
            ));
        }
        self.fault(&seen.bytes)
    }

    fn all_edges(&self) -> BTreeSet<u64> {
        let changes = self.contents.iter().flat_map(|content| &content.changes);
        let mut edges: BTreeSet<u64> = changes.flat_map(Change::edges).collect();
        edges.extend(&self.edges);
        edges
    }

    /// What is wrong with `found` as the content of this file after a crash.
    pub(crate) fn fault(&self, found: &[u8]) -> Option<String> {
        // Contents before the newest that was synced are gone for good.
        let from = self
            .contents
            .iter()
            .rposition(|content| content.sync_acked)
            .unwrap_or(0);
        let candidates = self.contents.get(from..).unwrap_or_default();
        let edges = self.all_edges();
        let faults: Vec<String> = candidates
            .iter()
            .map_while(|content| content.fault(&edges, found))
            .collect();
        (faults.len() == candidates.len()).then(|| faults.join("; or "))
    }
}
