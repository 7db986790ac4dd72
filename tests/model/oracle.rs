//! The reference: what POSIX, `docs/semantics.md` and the charge rule say of each call.
//!
//! The calls on names are in `tree`, on open files in `files`, on attributes in `attributes`. A call
//! that fails changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use super::call::{Call, Event, FILES, SCANS};
use super::content::{Content, Published};
use super::files::Open;
use super::node::{Body, Id, Node, Stamp};
use super::scan::Scan;

/// What a call must answer.
pub(crate) type Outcome = Result<Answer, Errno>;

/// An answer, as far as it is known: some can be told only from what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Count(u64),
    /// Where data or a hole of that file begins, from an offset on.
    Found(Id, u64, bool),
    /// What that file has there.
    Content(Id, u64, u64),
    Attr(Id),
    /// A symlink's target of that length.
    Target(u16),
    /// Length and text of an extended attribute.
    Value(u32, u8),
    /// Numbers of extended attributes.
    Names(Vec<usize>),
    /// Some more entries of that open directory.
    Items(usize),
}

/// The directory of the sequence.
pub(super) const ROOT: Id = 0;

/// Small new files that a full quota takes, and bytes of each, at most.
const SMALL_FILES: usize = 64;
const SMALL_BYTES: u64 = 16 << 10;

/// A file system in memory.
#[derive(Clone)]
pub(crate) struct Reference {
    pub(super) nodes: BTreeMap<Id, Node>,
    pub(super) files: [Option<Open>; FILES],
    pub(super) scans: [Option<Scan>; SCANS],
    /// Calls made so far: the time.
    pub(super) now: u32,
    next: Id,
    /// Bytes that [`Reference::used`] may come to by growth.
    room: u64,
    /// Bytes beyond them that small new files may take.
    small_room: u64,
    /// Files and directories that have been made there since there was ordinary room.
    small: BTreeSet<Id>,
    /// A commit begins by an event of its own; else [`Event::Settle`] publishes what is there then.
    begins: bool,
}

impl Reference {
    /// Nothing but an empty directory, with room for so many bytes in it.
    pub(super) fn new(room: u64, small_room: u64, begins: bool) -> Self {
        let root = Node::new(Body::Directory(BTreeMap::new()), 0o755, 0);
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            files: Default::default(),
            scans: Default::default(),
            now: 0,
            next: ROOT + 1,
            room,
            small_room,
            small: BTreeSet::new(),
            begins,
        }
    }

    /// Makes a call.
    pub(crate) fn call(&mut self, call: &Call) -> Outcome {
        self.now += 1;
        match call {
            Call::Open {
                at,
                path,
                access,
                how,
            } => self.open(*at, path, *access, *how),
            Call::Close(at) => self.close(*at),
            Call::Read { at, offset, len } => self.read(*at, *offset, *len),
            Call::Write {
                at,
                offset,
                len,
                text,
            } => self.write(*at, *offset, *len, *text),
            Call::Resize { at, size } => self.resize_open(*at, *size),
            Call::Allocate {
                at,
                offset,
                len,
                how,
            } => self.allocate(*at, *offset, *len, *how),
            Call::Seek { at, offset, hole } => self.seek(*at, *offset, *hole),
            Call::Copy { from, to, len } => self.copy(*from, *to, *len),
            Call::Sync(at) => self.open_file(*at).map(|_| Answer::Done),
            Call::StatOpen(at) => self.open_file(*at).map(|open| Answer::Attr(open.file)),
            Call::Truncate(path, size) => self.truncate(path, *size),
            Call::Stat(path) => self.find(path).map(Answer::Attr),
            Call::Chmod(path, mode) => self.chmod(path, *mode),
            Call::Chown(path, uid, gid) => self.chown(path, *uid, *gid),
            Call::Touch(path, atime, mtime) => self.touch(path, *atime, *mtime),
            Call::Mkdir(path) => self.make(path, Body::Directory(BTreeMap::new()), 0o755),
            Call::Rmdir(path) => self.rmdir(path),
            Call::Unlink(path) => self.unlink(path),
            Call::Link(from, to) => self.link(from, to),
            Call::Symlink(path, len) => self.symlink(path, *len),
            Call::Readlink(path) => self.readlink(path),
            Call::Mknod(path, kind) => self.mknod(path, *kind),
            Call::Rename(from, to, flags) => self.rename(from, to, *flags),
            Call::SetXattr(path, name, len, text, mode) => {
                self.set_xattr(path, *name, (*len, *text), *mode)
            }
            Call::GetXattr(path, name) => self.get_xattr(path, *name),
            Call::RemoveXattr(path, name) => self.remove_xattr(path, *name),
            Call::ListXattrs(path) => self.list_xattrs(path),
            Call::OpenDir { at, path } => self.open_dir(*at, path),
            Call::ReadDir { at, .. } => self.read_dir(*at),
            Call::Mark(at) => self.scan(*at).map(|_| Answer::Done),
            Call::Back(at) => self.scan(*at).map(|_| Answer::Done),
            Call::CloseDir(at) => {
                self.scan(*at)?;
                self.scans[*at] = None;
                Ok(Answer::Done)
            }
            Call::Event(event) => {
                if matches!(event, Event::Restart | Event::Move) {
                    self.close_all();
                }
                if *event == Event::Move {
                    self.small.clear();
                    // It is not published.
                    let all = self.nodes.values_mut();
                    all.for_each(|node| node.atime = Stamp::Lost);
                }
                self.publish(*event);
                Ok(Answer::Done)
            }
        }
    }

    /// What is known of the node after `event`.
    fn publish(&mut self, event: Event) {
        use Published::{Done, Open, Soon};
        let begins = self.begins;
        for node in self.nodes.values_mut() {
            let Body::File(content) = &mut node.body else {
                continue;
            };
            content.published = match (event, content.published) {
                (Event::Cut, Open | Soon) => Soon,
                (Event::Settle, Soon) | (Event::Move, _) => Done,
                (Event::Settle, _) if !begins => Done,
                (Event::GiveUp | Event::Restart, Soon) => Open,
                (_, known) => known,
            };
        }
    }

    /// Nominal bytes of all that is there.
    pub(crate) fn used(&self) -> u64 {
        let directory = pxfs::pack::charge::DIRECTORY; // counted as overhead
        self.nodes.values().map(Node::charge).sum::<u64>() - directory
    }

    /// Takes `bytes` more of the quota, if they are there.
    pub(super) fn grow(&self, bytes: u64) -> Result<(), Errno> {
        match self.fits_in(self.room, bytes) {
            true => Ok(()),
            false => Err(Errno::DQUOT),
        }
    }

    fn fits_in(&self, room: u64, bytes: u64) -> bool {
        bytes == 0 || self.used().saturating_add(bytes) <= room
    }

    /// Whether a change of `charge` from one to the other has room.
    pub(super) fn has_room(&self, before: u64, after: u64) -> bool {
        self.grow(after.saturating_sub(before)).is_ok()
    }

    /// As [`Reference::has_room`], of a call after which `file` may end at `end`.
    pub(super) fn has_room_up_to(&self, file: Id, end: u64, before: u64, after: u64) -> bool {
        let is_small = self.small.contains(&file) && end <= SMALL_BYTES;
        let more = if is_small { self.small_room } else { 0 };
        self.fits_in(self.room + more, after.saturating_sub(before))
    }

    /// Takes `bytes` for a new file or directory; whether they lie where only small ones may.
    pub(super) fn grow_new(&self, bytes: u64) -> Result<bool, Errno> {
        let fits = self.fits_in(self.room, bytes);
        match fits || self.fits_in(self.room + self.small_room, bytes) {
            true if fits || self.small.len() < SMALL_FILES => Ok(!fits),
            _ => Err(Errno::DQUOT),
        }
    }

    /// A file or directory is made, or gone.
    pub(super) fn note_new(&mut self, id: Id, is_small: bool) {
        match is_small {
            true => _ = self.small.insert(id),
            false => self.small.clear(),
        }
    }

    pub(super) fn note_gone(&mut self, id: Id) {
        self.small.remove(&id);
    }

    pub(super) fn add_node(&mut self, node: Node) -> Id {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        id
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the reference")
    }

    /// The content of a regular file.
    pub(crate) fn content(&self, id: Id) -> Option<&Content> {
        match &self.node(id).body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }

    /// Forgets an inode that has neither a name nor a user.
    pub(super) fn collect(&mut self, id: Id) {
        let used = self.files.iter().flatten().any(|open| open.file == id);
        if !used && self.nodes.get(&id).is_some_and(|node| node.nlink == 0) {
            self.nodes.remove(&id);
        }
    }
}
