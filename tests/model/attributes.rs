//! Attributes in the reference.

use rustix::io::Errno;

use super::call::{Kind, Special, XATTRS, XattrMode};
use super::node::{Body, Id, Stamp};
use super::oracle::{Answer, Outcome, Reference};

/// Greatest sum of an inode's extended attributes, in bytes.
const MOST: u64 = 65 << 10;

impl Reference {
    pub(super) fn truncate(&mut self, path: &[u8], size: u64) -> Outcome {
        let id = self.find_followed(path)?;
        match self.node(id).body {
            Body::File(_) => self.resize(id, size),
            Body::Directory(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    pub(super) fn chmod(&mut self, path: &[u8], mode: u16) -> Outcome {
        let id = self.find_followed(path)?;
        self.node_mut(id).mode = mode;
        self.touched(id)
    }

    pub(super) fn chown(&mut self, path: &[u8], uid: u32, gid: u32) -> Outcome {
        let id = self.find(path)?;
        let node = self.node_mut(id);
        (node.uid, node.gid) = (uid, gid);
        if !matches!(node.body, Body::Directory(_)) {
            let group = if node.mode & 0o010 != 0 { 0o2000 } else { 0 };
            node.mode &= !(0o4000 | group);
        }
        self.touched(id)
    }

    pub(super) fn touch(&mut self, path: &[u8], atime: Option<i64>, mtime: Option<i64>) -> Outcome {
        let id = self.find(path)?;
        if (atime, mtime) == (None, None) {
            return Ok(Answer::Done);
        }
        let node = self.node_mut(id);
        node.atime = atime.map_or(node.atime, Stamp::Set);
        node.mtime = mtime.map_or(node.mtime, Stamp::Set);
        self.touched(id)
    }

    fn touched(&mut self, id: Id) -> Outcome {
        self.node_mut(id).ctime = Stamp::Step(self.now);
        Ok(Answer::Done)
    }

    pub(super) fn readlink(&self, path: &[u8]) -> Outcome {
        match self.node(self.find(path)?).body {
            Body::Symlink(len) => Ok(Answer::Target(len)),
            _ => Err(Errno::INVAL),
        }
    }

    /// Refuses attributes of users on what users cannot write to.
    fn check_xattr(&self, id: Id, name: usize, refusal: Errno) -> Result<(), Errno> {
        let kind = self.node(id).kind();
        let ours = matches!(kind, Kind::Directory | Kind::Special(Special::File));
        match XATTRS[name].starts_with("user.") && !ours {
            true => Err(refusal),
            false => Ok(()),
        }
    }

    pub(super) fn set_xattr(
        &mut self,
        path: &[u8],
        name: usize,
        value: (u32, u8),
        mode: XattrMode,
    ) -> Outcome {
        let id = self.find(path)?;
        self.check_xattr(id, name, Errno::PERM)?;
        match XATTRS[name] {
            virtual_one if virtual_one.starts_with("user.px.") => return Err(Errno::PERM),
            system if system.starts_with("system.") => return Err(Errno::OPNOTSUPP),
            _ => {}
        }
        let known = self.node(id).xattrs.contains_key(&name);
        match (mode, known) {
            (XattrMode::Create, true) => return Err(Errno::EXIST),
            (XattrMode::Replace, false) => return Err(Errno::NODATA),
            _ => {}
        }
        let mut changed = self.node(id).clone();
        changed.xattrs.insert(name, value);
        if changed.xattrs_bytes() > MOST {
            return Err(Errno::NOSPC);
        }
        if !self.has_room(self.node(id).charge(), changed.charge()) {
            return Err(Errno::DQUOT);
        }
        self.nodes.insert(id, changed);
        self.touched(id)
    }

    pub(super) fn get_xattr(&self, path: &[u8], name: usize) -> Outcome {
        let id = self.find(path)?;
        self.check_xattr(id, name, Errno::NODATA)?;
        if XATTRS[name].starts_with("system.") {
            return Err(Errno::OPNOTSUPP);
        }
        let value = self.node(id).xattrs.get(&name);
        value
            .map(|(len, text)| Answer::Value(*len, *text))
            .ok_or(Errno::NODATA)
    }

    pub(super) fn remove_xattr(&mut self, path: &[u8], name: usize) -> Outcome {
        let id = self.find(path)?;
        self.check_xattr(id, name, Errno::PERM)?;
        if XATTRS[name].starts_with("user.px.") {
            return Err(Errno::PERM);
        }
        if XATTRS[name].starts_with("system.") {
            return Err(Errno::OPNOTSUPP);
        }
        self.node_mut(id)
            .xattrs
            .remove(&name)
            .ok_or(Errno::NODATA)?;
        self.touched(id)
    }

    pub(super) fn list_xattrs(&self, path: &[u8]) -> Outcome {
        let id = self.find(path)?;
        Ok(Answer::Names(
            self.node(id).xattrs.keys().copied().collect(),
        ))
    }
}
