//! What must be true of a volume after a power cut, given what was acknowledged before it.
//!
//! The names and attributes are those after some prefix, in order, of the operations that were begun,
//! not shorter than what was synced; each file holds what [`File`] says.

use std::collections::BTreeMap;

use super::content::{self, File, Need, Times};
use super::violation::{Lost, Violation};
use crate::fs::Kind;

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) owner: (u32, u32),
    /// Of a device: which.
    pub(super) rdev: u32,
    pub(super) target: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a directory: when its entries were changed last.
    pub(super) mtime_ns: i64,
    /// When it was changed last. Of a file: but for its bytes and their time.
    pub(super) ctime_ns: i64,
}

/// Names and inodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) entries: BTreeMap<(u64, String), u64>,
    pub(super) nodes: BTreeMap<u64, Node>,
    /// What a commit keeps beside the tree, of [`KEPT`].
    pub(super) kept: BTreeMap<&'static str, Vec<u8>>,
}

/// The values that a commit keeps: what is on its way to the node, and what was published.
pub(super) const KEPT: [&str; 2] = ["pending", "head"];

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
    Owner(u64, (u32, u32)),
    Xattr(u64, Vec<u8>, Option<Vec<u8>>),
    /// Nothing but the time of change: what else there is lies with the bytes.
    Touch(u64),
    Keep(Vec<(&'static str, Option<Vec<u8>>)>),
}

impl Tree {
    fn touch(&mut self, dir: u64, now_ns: i64) {
        if let Some(node) = self.nodes.get_mut(&dir) {
            (node.mtime_ns, node.ctime_ns) = (now_ns, now_ns);
        }
    }

    /// Changes an inode, if it is there.
    fn change(&mut self, ino: u64, now_ns: i64, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.ctime_ns = now_ns;
            change(node);
        }
    }

    fn enter(&mut self, place: &Place, ino: u64, now_ns: i64) {
        self.entries.insert(place.clone(), ino);
        self.touch(place.0, now_ns);
        self.change(ino, now_ns, |_| {});
    }

    fn leave(&mut self, place: &Place, now_ns: i64) -> u64 {
        let ino = self.entries.remove(place).expect("an entry of the model");
        self.touch(place.0, now_ns);
        self.change(ino, now_ns, |_| {});
        ino
    }

    /// An inode without a name goes.
    fn forget(&mut self, ino: u64) {
        if self.names(ino) == 0 {
            self.nodes.remove(&ino);
        }
    }

    /// The files have the times of change that they have in `other`: those lie with their bytes, too.
    fn take_file_ctimes(&mut self, other: &Self) {
        let files = self
            .nodes
            .iter_mut()
            .filter(|(_, node)| node.kind == Kind::File);
        for (ino, node) in files {
            node.ctime_ns = other
                .nodes
                .get(ino)
                .map_or(node.ctime_ns, |known| known.ctime_ns);
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
                    self.change(replaced, now_ns, |_| {});
                    self.forget(replaced);
                }
            }
            Step::Exchange(one, other) => {
                let (first, second) = (self.leave(one, now_ns), self.leave(other, now_ns));
                self.enter(one, second, now_ns);
                self.enter(other, first, now_ns);
            }
            Step::Mode(ino, mode) => self.change(*ino, now_ns, |node| node.mode = *mode),
            Step::Owner(ino, owner) => self.change(*ino, now_ns, |node| node.owner = *owner),
            Step::Touch(ino) => self.change(*ino, now_ns, |_| {}),
            Step::Keep(values) => {
                for (name, value) in values {
                    match value {
                        Some(value) => self.kept.insert(name, value.clone()),
                        None => self.kept.remove(name),
                    };
                }
            }
            Step::Xattr(ino, name, value) => self.change(*ino, now_ns, |node| {
                match value {
                    Some(value) => node.xattrs.insert(name.clone(), value.clone()),
                    None => node.xattrs.remove(name),
                };
            }),
        }
    }
}

/// What is on a volume. Of files it has what lies in their inodes apart: that goes its own ways.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) tree: Tree,
    pub(super) bytes: BTreeMap<u64, Vec<u8>>,
    pub(super) times: BTreeMap<u64, Times>,
}

impl Found {
    /// The times of a file.
    fn times(&self, ino: u64) -> Times {
        self.times.get(&ino).copied().unwrap_or_default()
    }
}

/// What a call does.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Changes names or attributes.
    Names(Step),
    /// Puts files in the place of others: they must be whole where the names are.
    Replace(Step, Vec<u64>),
    /// Changes the bytes of a file, which has these times then.
    Bytes(u64, content::Change, Times),
    /// Sets the modification time of a file.
    Time(u64, i64),
    /// Empties a file, which has this modification time then. It is written anew; for so long, where
    /// that is said, that it may be found at any point of it.
    Empty(u64, i64, bool),
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
    /// Keeps values durably.
    Kept(Step),
}

impl Act {
    /// Whether it promises that something is durable, and does nothing else before.
    pub(super) fn is_sync(&self) -> bool {
        matches!(
            self,
            Self::Sync(_) | Self::SyncAll | Self::Flush(_) | Self::Kept(_)
        )
    }
}

/// What a call promises when it returns: so many operations on names, and so much of files.
#[derive(Clone, Debug)]
struct Promise {
    steps: usize,
    needs: Vec<Need>,
}

/// What was acknowledged, and what of it is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// What of names is durable, by how many operations, and the operations since, each with what it
    /// needs.
    solid: Tree,
    solid_steps: usize,
    loose: Vec<(Step, i64, Vec<Need>)>,
    /// Of calls that have begun, by their numbers.
    promises: BTreeMap<usize, Promise>,
    /// Names as acknowledged.
    pub(super) tree: Tree,
    pub(super) files: BTreeMap<u64, File>,
}

impl Model {
    /// A volume of which it is known what it holds.
    pub(super) fn of(found: &Found) -> Self {
        let known = |(ino, bytes): (&u64, &Vec<u8>)| (*ino, File::known(bytes, found.times(*ino)));
        Self {
            solid: found.tree.clone(),
            tree: found.tree.clone(),
            files: found.bytes.iter().map(known).collect(),
            ..Self::default()
        }
    }

    /// The same volume, of which it is known now what it holds.
    pub(super) fn known_again(&self, found: &Found) -> Self {
        let mut next = Self::of(found);
        for (ino, bytes) in &found.bytes {
            if let Some(file) = self.files.get(ino) {
                let again = file.known_again(bytes, found.times(*ino));
                next.files.insert(*ino, again);
            }
        }
        next
    }

    /// The call `number` begins: from here on what it does may be there.
    pub(super) fn begin(&mut self, number: usize, act: &Act, now_ns: i64) {
        let mut needs = Vec::new();
        match act {
            Act::Names(step) | Act::Kept(step) => self.step(step, now_ns, Vec::new()),
            Act::Replace(step, whole) => {
                for ino in whole {
                    if let Some(file) = self.files.get_mut(ino) {
                        file.is_whole();
                        needs.push(file.need(*ino));
                    }
                }
                self.step(step, now_ns, std::mem::take(&mut needs));
            }
            Act::Bytes(ino, change, times) => {
                let file = self.file(*ino);
                file.change(change.clone());
                file.note_times(*times);
            }
            Act::Time(ino, mtime_ns) => {
                let times = Times {
                    mtime_ns: *mtime_ns,
                    ctime_ns: now_ns,
                };
                self.file(*ino).note_times(times);
                self.step(&Step::Touch(*ino), now_ns, Vec::new());
            }
            Act::Empty(ino, emptied_ns, is_late) => {
                let file = self.file(*ino);
                file.empty();
                file.note_times(Times::at(*emptied_ns));
                if *is_late {
                    file.may_stand();
                }
            }
            Act::Closed(ino) => self.file(*ino).is_whole(),
            Act::Sync(Some(ino)) => {
                let file = self.file(*ino);
                file.is_whole();
                needs.push(file.need(*ino));
            }
            Act::Late => self.files.values_mut().for_each(File::may_stand),
            Act::SyncAll => {
                self.files.values_mut().for_each(File::may_stand);
                needs.extend(self.files.iter().map(|(ino, file)| file.need(*ino)));
            }
            Act::Flush(open) => {
                let files = self.files.iter();
                let over = files.filter(|(ino, file)| !file.is_begun() && !open.contains(ino));
                needs.extend(over.map(|(ino, file)| file.need(*ino)));
            }
            Act::Sync(None) => {}
        }
        if act.is_sync() {
            let steps = self.solid_steps + self.loose.len();
            self.promises.insert(number, Promise { steps, needs });
        }
    }

    /// It has returned: what it promised holds.
    pub(super) fn acknowledge(&mut self, number: usize) {
        let Some(promise) = self.promises.remove(&number) else {
            return;
        };
        let count = promise.steps.saturating_sub(self.solid_steps);
        let mut needs = promise.needs;
        for (step, now_ns, more) in self.loose.drain(..count) {
            self.solid.apply(&step, now_ns);
            needs.extend(more);
        }
        self.solid_steps += count;
        for need in needs {
            if let Some(file) = self.files.get_mut(&need.ino) {
                file.cover_as(&need);
            }
        }
    }

    fn step(&mut self, step: &Step, now_ns: i64, needs: Vec<Need>) {
        self.tree.apply(step, now_ns);
        if let Step::Make(_, ino, node) = step
            && node.kind == Kind::File
        {
            let file = File::known(&[], Times::at(now_ns));
            self.files.insert(*ino, file);
        }
        self.loose.push((step.clone(), now_ns, needs));
    }

    fn file(&mut self, ino: u64) -> &mut File {
        self.files.get_mut(&ino).expect("a file of the model")
    }

    /// What is wrong with `found` after a power cut, on a disk that writes `block` bytes whole.
    pub(super) fn check(&self, found: &Found, block: u64) -> Result<(), Violation> {
        let mut tree = self.solid.clone();
        let mut seen = found.tree.clone();
        let mut needs: Vec<Need> = Vec::new();
        let mut violation = None;
        for count in 0..=self.loose.len() {
            if let Some(last) = count.checked_sub(1) {
                let (step, now_ns, more) = &self.loose[last];
                tree.apply(step, *now_ns);
                needs.extend(more);
            }
            seen.take_file_ctimes(&tree);
            if tree == seen {
                match self.check_files(&needs, &tree, found, block) {
                    Err(fault) => {
                        let context = format!("with {count} of {} steps", self.loose.len());
                        violation = Some(fault.within(&context));
                    }
                    Ok(()) => return Ok(()),
                }
            }
        }
        Err(violation.unwrap_or_else(|| {
            Violation::new(
                Lost::Names,
                format!(
                    "no prefix gives these names\n found {:?}\n synced {:?}\n then {:?}",
                    found.tree,
                    self.solid,
                    self.loose.iter().map(|(step, ..)| step).collect::<Vec<_>>()
                ),
            )
        }))
    }

    /// Whether the files of `found` are right where the names are `tree`.
    fn check_files(
        &self,
        needs: &[Need],
        tree: &Tree,
        found: &Found,
        block: u64,
    ) -> Result<(), Violation> {
        for (ino, bytes) in &found.bytes {
            let Some(file) = self.files.get(ino) else {
                continue;
            };
            let needs: Vec<Need> = needs.iter().filter(|n| n.ino == *ino).copied().collect();
            let told = |fault: String| format!("inode {}: {fault}", ino & 0xffff_ffff_ffff);
            if let Some(fault) = file.fault(&needs, block, bytes) {
                return Err(Violation::new(Lost::Bytes, told(fault)));
            }
            let (times, named_ns) = (found.times(*ino), tree.nodes[ino].ctime_ns);
            if !file.may_be_of(&needs, named_ns, times) {
                let fault = format!("it says {times:?}, its names {named_ns}: {file:?}");
                return Err(Violation::new(Lost::Time, told(fault)));
            }
        }
        Ok(())
    }
}
