//! Names in the reference: what makes, moves and removes them.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::call::{NAMES, Place, Special};
use super::content::Content;
use super::node::{Body, Id, Node, Stamp, name_charge};
use super::oracle::{Answer, Outcome, ROOT, Reference};

/// `flags` of renameat2(2).
const NO_REPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

impl Reference {
    /// All that has a name, with its path, and the directory of the sequence.
    pub(crate) fn walk(&self) -> Vec<(Place, Id)> {
        let mut found = vec![(Place::new(), ROOT)];
        let mut next = 0;
        while let Some((path, id)) = found.get(next).cloned() {
            next += 1;
            for (name, child) in self.entries(id).into_iter().flatten() {
                let mut below = path.clone();
                below.push(*name);
                found.push((below, *child));
            }
        }
        found
    }

    pub(crate) fn entries(&self, dir: Id) -> Option<&BTreeMap<u8, Id>> {
        match &self.nodes.get(&dir)?.body {
            Body::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    fn entries_mut(&mut self, dir: Id) -> &mut BTreeMap<u8, Id> {
        match &mut self.node_mut(dir).body {
            Body::Directory(entries) => entries,
            _ => unreachable!("a directory"),
        }
    }

    /// One step of a walk: a symlink on the way leads nowhere.
    fn step(&self, dir: Id, name: u8) -> Result<Option<Id>, Errno> {
        match self.node(dir).body {
            Body::Directory(_) => {}
            Body::Symlink(_) => return Err(Errno::NOENT),
            _ => return Err(Errno::NOTDIR),
        }
        if NAMES[usize::from(name)].len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(self
            .entries(dir)
            .and_then(|entries| entries.get(&name).copied()))
    }

    /// The inode at `path`, a last symlink not followed.
    pub(super) fn find(&self, path: &[u8]) -> Result<Id, Errno> {
        path.iter()
            .try_fold(ROOT, |dir, name| self.step(dir, *name)?.ok_or(Errno::NOENT))
    }

    /// As [`Reference::find`], a last symlink followed.
    pub(super) fn find_followed(&self, path: &[u8]) -> Result<Id, Errno> {
        let id = self.find(path)?;
        match self.node(id).body {
            Body::Symlink(_) => Err(Errno::NOENT),
            _ => Ok(id),
        }
    }

    /// The directory that `path` lies in, and its name there.
    fn parent(&self, path: &[u8]) -> Result<(Id, u8), Errno> {
        let (name, above) = path.split_last().ok_or(Errno::INVAL)?;
        let dir = self.find_followed(above)?;
        match self.node(dir).is_directory() {
            true => Ok((dir, *name)),
            false => Err(Errno::NOTDIR),
        }
    }

    /// As [`Reference::parent`], with what has that name.
    pub(super) fn place(&self, path: &[u8]) -> Result<(Id, u8, Option<Id>), Errno> {
        let (dir, name) = self.parent(path)?;
        Ok((dir, name, self.step(dir, name)?))
    }

    /// Where something new may be.
    fn free_place(&self, path: &[u8]) -> Result<(Id, u8), Errno> {
        match self.place(path)? {
            (dir, name, None) => Ok((dir, name)),
            _ => Err(Errno::EXIST),
        }
    }

    pub(super) fn make(&mut self, path: &[u8], body: Body, mode: u16) -> Outcome {
        let (dir, name) = self.free_place(path)?;
        self.make_at(dir, name, body, mode)?;
        Ok(Answer::Done)
    }

    pub(super) fn make_at(
        &mut self,
        dir: Id,
        name: u8,
        body: Body,
        mode: u16,
    ) -> Result<Id, Errno> {
        let mut node = Node::new(body, mode, self.now);
        if self.node(dir).mode & 0o2000 != 0 {
            node.gid = self.node(dir).gid;
            node.mode |= if node.is_directory() { 0o2000 } else { 0 };
        }
        let cost = name_charge(name) + node.charge();
        let may_be_small = matches!(node.body, Body::File(_) | Body::Directory(_));
        let is_small = match may_be_small {
            true => self.grow_new(cost)?,
            false => self.grow(cost).map(|()| false)?,
        };
        let links = u32::from(node.is_directory());
        let id = self.add_node(node);
        if may_be_small {
            self.note_new(id, is_small);
        }
        self.node_mut(dir).nlink += links;
        self.add_name(dir, name, id);
        Ok(id)
    }

    pub(super) fn mknod(&mut self, path: &[u8], kind: Special) -> Outcome {
        let body = match kind {
            Special::File => Body::File(Content::default()),
            other => Body::Special(other),
        };
        self.make(path, body, 0o644)
    }

    pub(super) fn symlink(&mut self, path: &[u8], len: u16) -> Outcome {
        match len {
            0 => Err(Errno::NOENT),
            4096.. => Err(Errno::NAMETOOLONG),
            _ => self.make(path, Body::Symlink(len), 0o777),
        }
    }

    pub(super) fn link(&mut self, from: &[u8], to: &[u8]) -> Outcome {
        let id = self.find(from)?;
        let (dir, name) = self.free_place(to)?;
        if self.node(id).is_directory() {
            return Err(Errno::PERM);
        }
        let mut linked = self.node(id).clone();
        linked.hard = true;
        linked.nlink += 1;
        linked.ctime = Stamp::Step(self.now);
        self.grow(name_charge(name) + linked.charge() - self.node(id).charge())?;
        self.nodes.insert(id, linked);
        self.add_name(dir, name, id);
        Ok(Answer::Done)
    }

    pub(super) fn unlink(&mut self, path: &[u8]) -> Outcome {
        let (dir, name, id) = self.place(path)?;
        let id = id.ok_or(Errno::NOENT)?;
        if self.node(id).is_directory() {
            return Err(Errno::ISDIR);
        }
        self.drop_name(dir, name);
        Ok(Answer::Done)
    }

    pub(super) fn rmdir(&mut self, path: &[u8]) -> Outcome {
        let (dir, name, id) = self.place(path)?;
        let id = id.ok_or(Errno::NOENT)?;
        self.check_empty(id)?;
        self.drop_name(dir, name);
        Ok(Answer::Done)
    }

    fn check_empty(&self, id: Id) -> Result<(), Errno> {
        match self.entries(id) {
            None => Err(Errno::NOTDIR),
            Some(entries) if entries.is_empty() => Ok(()),
            Some(_) => Err(Errno::NOTEMPTY),
        }
    }

    pub(super) fn rename(&mut self, from: &[u8], to: &[u8], flags: u32) -> Outcome {
        let (dir, name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let id = self.step(dir, name)?.ok_or(Errno::NOENT)?;
        let target = self.step(to_dir, to_name)?;
        match (flags, target) {
            (NO_REPLACE, Some(_)) => return Err(Errno::EXIST),
            (EXCHANGE, None) => return Err(Errno::NOENT),
            _ => {}
        }
        // A directory below itself; one in the place of another that it lies in.
        if to.len() > from.len() && to.starts_with(from) {
            return Err(Errno::INVAL);
        }
        if from.len() > to.len() && from.starts_with(to) {
            return Err(if flags == EXCHANGE {
                Errno::INVAL
            } else {
                Errno::NOTEMPTY
            });
        }
        if target == Some(id) {
            return Ok(Answer::Done);
        }
        let directory = self.node(id).is_directory();
        if let (EXCHANGE, Some(target)) = (flags, target) {
            let other = self.node(target).is_directory();
            self.entries_mut(dir).insert(name, target);
            self.entries_mut(to_dir).insert(to_name, id);
            self.move_link(dir, to_dir, u32::from(directory));
            self.move_link(to_dir, dir, u32::from(other));
            self.renamed(&[id, target], &[dir, to_dir]);
            return Ok(Answer::Done);
        }
        if let Some(target) = target {
            match (directory, self.node(target).is_directory()) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) => self.check_empty(target)?,
                (false, false) => {}
            }
            self.drop_name(to_dir, to_name);
        }
        self.take_name(dir, name);
        self.add_name(to_dir, to_name, id);
        self.move_link(dir, to_dir, u32::from(directory));
        self.renamed(&[id], &[dir, to_dir]);
        Ok(Answer::Done)
    }

    /// The link that a directory has from the `..` of another moves.
    fn move_link(&mut self, from: Id, to: Id, links: u32) {
        self.node_mut(from).nlink -= links;
        self.node_mut(to).nlink += links;
    }

    fn renamed(&mut self, nodes: &[Id], dirs: &[Id]) {
        let now = Stamp::Step(self.now);
        for id in nodes {
            self.node_mut(*id).ctime = now;
        }
        for dir in dirs {
            let dir = self.node_mut(*dir);
            (dir.mtime, dir.ctime) = (now, now);
        }
    }

    fn add_name(&mut self, dir: Id, name: u8, id: Id) {
        self.entries_mut(dir).insert(name, id);
        self.renamed(&[], &[dir]);
        for scan in self.scans.iter_mut().flatten() {
            scan.added(dir, name);
        }
    }

    fn take_name(&mut self, dir: Id, name: u8) -> Option<Id> {
        let id = self.entries_mut(dir).remove(&name);
        self.renamed(&[], &[dir]);
        for scan in self.scans.iter_mut().flatten() {
            scan.removed(dir, name);
        }
        id
    }

    /// Removes a name, and with the last one what nobody has open.
    fn drop_name(&mut self, dir: Id, name: u8) {
        let Some(id) = self.take_name(dir, name) else {
            return;
        };
        let now = Stamp::Step(self.now);
        let node = self.node_mut(id);
        node.ctime = now;
        let links = u32::from(node.is_directory());
        node.nlink = if links > 0 { 0 } else { node.nlink - 1 };
        let is_gone = node.nlink == 0;
        self.node_mut(dir).nlink -= links;
        if is_gone {
            self.note_gone(id);
        }
        self.collect(id);
    }
}
