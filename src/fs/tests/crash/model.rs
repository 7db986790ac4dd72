//! What must be true of a volume after a power cut, given what was acknowledged before it.
//!
//! The names and attributes are those after some prefix, in order, of the operations that were begun,
//! not shorter than what was synced; each file holds what [`File`] says.

use std::collections::BTreeMap;

use super::content::{self, File, Need};
use crate::fs::Kind;

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) target: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a directory: when its entries were changed last.
    pub(super) mtime_ns: i64,
}

/// Names and inodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) entries: BTreeMap<(u64, String), u64>,
    pub(super) nodes: BTreeMap<u64, Node>,
}

/// A name in a directory.
pub(super) type Place = (u64, String);

/// One operation on names or attributes.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Make(Place, u64, Box<Node>),
    Link(u64, Place),
    Remove(Place),
    Rename(Place, Place),
    Exchange(Place, Place),
    Mode(u64, u16),
    Xattr(u64, Vec<u8>, Option<Vec<u8>>),
}

impl Tree {
    fn touch(&mut self, dir: u64, now_ns: i64) {
        if let Some(node) = self.nodes.get_mut(&dir) {
            node.mtime_ns = now_ns;
        }
    }

    fn enter(&mut self, place: &Place, ino: u64, now_ns: i64) {
        self.entries.insert(place.clone(), ino);
        self.touch(place.0, now_ns);
    }

    fn leave(&mut self, place: &Place, now_ns: i64) -> u64 {
        let ino = self.entries.remove(place).expect("an entry of the model");
        self.touch(place.0, now_ns);
        ino
    }

    /// An inode without a name goes.
    fn forget(&mut self, ino: u64) {
        if self.names(ino) == 0 {
            self.nodes.remove(&ino);
        }
    }

    /// How many names an inode has.
    pub(super) fn names(&self, ino: u64) -> usize {
        self.entries.values().filter(|named| **named == ino).count()
    }

    /// As `st_nlink` tells it.
    pub(super) fn links(&self, ino: u64) -> usize {
        if self
            .nodes
            .get(&ino)
            .is_none_or(|node| node.kind != Kind::Directory)
        {
            return self.names(ino);
        }
        let of_dir = self.entries.iter().filter(|((dir, _), _)| *dir == ino);
        let is_dir = |ino: &u64| {
            self.nodes
                .get(ino)
                .is_some_and(|node| node.kind == Kind::Directory)
        };
        2 + of_dir.filter(|(_, named)| is_dir(named)).count()
    }

    /// Applies an operation, done at `now_ns`.
    pub(super) fn apply(&mut self, step: &Step, now_ns: i64) {
        match step {
            Step::Make(place, ino, node) => {
                self.nodes.insert(*ino, Node::clone(node));
                self.enter(place, *ino, now_ns);
            }
            Step::Link(ino, place) => self.enter(place, *ino, now_ns),
            Step::Remove(place) => {
                let ino = self.leave(place, now_ns);
                self.forget(ino);
            }
            Step::Rename(from, to) => {
                let ino = self.leave(from, now_ns);
                let replaced = self.entries.get(to).copied();
                self.enter(to, ino, now_ns);
                if let Some(replaced) = replaced {
                    self.forget(replaced);
                }
            }
            Step::Exchange(one, other) => {
                let (first, second) = (self.leave(one, now_ns), self.leave(other, now_ns));
                self.enter(one, second, now_ns);
                self.enter(other, first, now_ns);
            }
            Step::Mode(ino, mode) => {
                if let Some(node) = self.nodes.get_mut(ino) {
                    node.mode = *mode;
                }
            }
            Step::Xattr(ino, name, value) => {
                if let Some(node) = self.nodes.get_mut(ino) {
                    match value {
                        Some(value) => node.xattrs.insert(name.clone(), value.clone()),
                        None => node.xattrs.remove(name),
                    };
                }
            }
        }
    }
}

/// What is on a volume.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) tree: Tree,
    pub(super) bytes: BTreeMap<u64, Vec<u8>>,
}

/// What a call does.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Changes names or attributes.
    Names(Step),
    /// Puts files in the place of others: they must be whole where the names are.
    Replace(Step, Vec<u64>),
    /// Changes the bytes of a file.
    Bytes(u64, content::Change),
    /// Empties a file.
    Empty(u64),
    /// The last descriptor of a file is closed.
    Closed(u64),
    /// What was emptied long ago may stand.
    Late,
    /// `fsync` of a file, or of a directory.
    Sync(Option<u64>),
    /// Everything is made durable; or all but what is being written anew, and these: emptied a moment
    /// ago, and open.
    SyncAll,
    Flush(Vec<u64>),
}

/// A call in its place: begun and acknowledged when so much had reached the disk, at this time.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) begun: usize,
    pub(super) acked: usize,
    pub(super) now_ns: i64,
    pub(super) act: Act,
}

/// What was acknowledged, and what of it is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// What of names is durable, and the operations since, each with what it needs.
    solid: Tree,
    loose: Vec<(Step, i64, Vec<Need>)>,
    /// Names as acknowledged.
    pub(super) tree: Tree,
    pub(super) files: BTreeMap<u64, File>,
}

impl Model {
    /// A volume of which it is known what it holds.
    pub(super) fn of(found: &Found) -> Self {
        let files = found.bytes.iter();
        Self {
            solid: found.tree.clone(),
            loose: Vec::new(),
            tree: found.tree.clone(),
            files: files
                .map(|(ino, bytes)| (*ino, File::known(bytes)))
                .collect(),
        }
    }

    /// The same volume, of which it is known now what it holds.
    pub(super) fn known_again(&self, found: &Found) -> Self {
        let mut next = Self::of(found);
        for (ino, bytes) in &found.bytes {
            if let Some(file) = self.files.get(ino) {
                next.files.insert(*ino, file.known_again(bytes));
            }
        }
        next
    }

    /// A call begins: from here on what it does may be there.
    pub(super) fn begin(&mut self, op: &Op) {
        match &op.act {
            Act::Names(step) => self.step(step, op.now_ns, Vec::new()),
            Act::Replace(step, whole) => {
                let mut needs = Vec::new();
                for ino in whole {
                    if let Some(file) = self.files.get_mut(ino) {
                        file.is_whole();
                        needs.push(file.need(*ino));
                    }
                }
                self.step(step, op.now_ns, needs);
            }
            Act::Bytes(ino, change) => self.file(*ino).change(change.clone()),
            Act::Empty(ino) => self.file(*ino).empty(),
            Act::Closed(ino) | Act::Sync(Some(ino)) => self.file(*ino).is_whole(),
            Act::Late | Act::SyncAll => self.files.values_mut().for_each(File::may_stand),
            Act::Sync(None) | Act::Flush(_) => {}
        }
    }

    /// A call has returned: what it promised holds.
    pub(super) fn acknowledge(&mut self, op: &Op) {
        match &op.act {
            Act::Sync(ino) => {
                if let Some(ino) = ino {
                    self.file(*ino).cover();
                }
            }
            Act::SyncAll => self.files.values_mut().for_each(File::cover),
            Act::Flush(open) => {
                let files = self.files.iter_mut();
                let over = files.filter(|(ino, file)| !file.is_begun() && !open.contains(ino));
                over.for_each(|(_, file)| file.cover());
            }
            _ => return,
        }
        for (step, now_ns, needs) in std::mem::take(&mut self.loose) {
            self.solid.apply(&step, now_ns);
            for need in needs {
                if let Some(file) = self.files.get_mut(&need.ino) {
                    file.cover_as(&need);
                }
            }
        }
    }

    fn step(&mut self, step: &Step, now_ns: i64, needs: Vec<Need>) {
        self.tree.apply(step, now_ns);
        if let Step::Make(_, ino, node) = step
            && node.kind == Kind::File
        {
            self.files.insert(*ino, File::known(&[]));
        }
        self.loose.push((step.clone(), now_ns, needs));
    }

    fn file(&mut self, ino: u64) -> &mut File {
        self.files.get_mut(&ino).expect("a file of the model")
    }

    /// What is wrong with `found` after a power cut, on a disk that writes `block` bytes whole.
    pub(super) fn check(&self, found: &Found, block: u64) -> Result<(), String> {
        let mut tree = self.solid.clone();
        let mut needs: Vec<Need> = Vec::new();
        let mut why = String::new();
        for count in 0..=self.loose.len() {
            if let Some(last) = count.checked_sub(1) {
                let (step, now_ns, more) = &self.loose[last];
                tree.apply(step, *now_ns);
                needs.extend(more);
            }
            if tree == found.tree {
                match self.content_fault(&needs, found, block) {
                    Some(fault) => {
                        why = format!("with {count} of {} steps: {fault}", self.loose.len())
                    }
                    None => return Ok(()),
                }
            }
        }
        if why.is_empty() {
            why = format!(
                "no prefix gives these names\n found {:?}\n synced {:?}\n then {:?}",
                found.tree,
                self.solid,
                self.loose.iter().map(|(step, ..)| step).collect::<Vec<_>>()
            );
        }
        Err(why)
    }

    fn content_fault(&self, needs: &[Need], found: &Found, block: u64) -> Option<String> {
        found.bytes.iter().find_map(|(ino, bytes)| {
            let needs: Vec<Need> = needs
                .iter()
                .filter(|need| need.ino == *ino)
                .copied()
                .collect();
            let fault = self.files.get(ino)?.fault(&needs, block, bytes)?;
            Some(format!("inode {}: {fault}", ino & 0xffff_ffff_ffff))
        })
    }
}
