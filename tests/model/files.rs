//! Open files and directories in the reference.

use rustix::io::Errno;

use super::call::{Access, Allocation, Call, FILES, How};
use super::content::{Content, Published};
use super::node::{Body, Id, Stamp};
use super::oracle::{Answer, Outcome, Reference};
use super::scan::Scan;

/// An open file.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub file: Id,
    pub access: Access,
    pub append: bool,
    pub direct: bool,
}

impl Reference {
    pub(super) fn open(&mut self, at: usize, path: &[u8], access: Access, how: How) -> Outcome {
        // Opening takes the slot, also where it fails.
        if self.files[at].is_some() {
            self.close(at)?;
        }
        let (dir, name, found) = self.place(path)?;
        let file = match found {
            None if !how.create => return Err(Errno::NOENT),
            None => self.make_at(dir, name, Body::File(Content::default()), 0o644)?,
            Some(_) if how.create && how.exclusive => return Err(Errno::EXIST),
            Some(id) => {
                match self.node(id).body {
                    Body::File(_) => {}
                    Body::Directory(_) => return Err(Errno::ISDIR),
                    Body::Symlink(_) => return Err(Errno::LOOP),
                    Body::Special(_) => return Err(Errno::NXIO),
                }
                if how.truncate {
                    self.resize(id, 0)?;
                }
                id
            }
        };
        self.files[at] = Some(Open {
            file,
            access,
            append: how.append,
            direct: how.direct,
        });
        Ok(Answer::Done)
    }

    pub(super) fn open_file(&self, at: usize) -> Result<Open, Errno> {
        self.files[at].clone().ok_or(Errno::BADF)
    }

    fn writable(&self, at: usize, otherwise: Errno) -> Result<Open, Errno> {
        let open = self.open_file(at)?;
        match open.access {
            Access::Read => Err(otherwise),
            _ => Ok(open),
        }
    }

    pub(super) fn close(&mut self, at: usize) -> Outcome {
        let open = self.files[at].take().ok_or(Errno::BADF)?;
        self.let_go(open.file);
        Ok(Answer::Done)
    }

    pub(super) fn close_all(&mut self) {
        for open in std::mem::take(&mut self.files).into_iter().flatten() {
            self.let_go(open.file);
        }
        self.scans = Default::default();
    }

    /// A descriptor of a file is closed.
    fn let_go(&mut self, file: Id) {
        let mut others = self.files.iter().flatten();
        if !others.any(|open| open.file == file)
            && let Some(node) = self.nodes.get_mut(&file)
            && let Body::File(content) = &mut node.body
        {
            content.end_room();
        }
        self.collect(file);
    }

    pub(super) fn read(&self, at: usize, offset: u64, len: u32) -> Outcome {
        let open = self.open_file(at)?;
        match open.access {
            Access::Write => Err(Errno::BADF),
            _ => Ok(Answer::Content(open.file, offset, u64::from(len))),
        }
    }

    pub(super) fn write(&mut self, at: usize, offset: u64, len: u32, text: u8) -> Outcome {
        let open = self.writable(at, Errno::BADF)?;
        let len = u64::from(len);
        if len == 0 {
            return Ok(Answer::Count(0));
        }
        let offset = self.landing(&open, offset);
        let write = |content: &mut Content, len| content.write(offset, len, text);
        self.put_what_fits(open.file, (offset, len), write)
    }

    /// Where a write at `offset` goes.
    fn landing(&self, open: &Open, offset: u64) -> u64 {
        match (open.append, self.content(open.file)) {
            (true, Some(content)) => content.size,
            _ => offset,
        }
    }

    /// Makes the change of as many of `len` bytes at `offset` as the quota has room for.
    fn put_what_fits(
        &mut self,
        file: Id,
        (offset, len): (u64, u64),
        change: impl Fn(&mut Content, u64),
    ) -> Outcome {
        let fits = |len: u64| {
            let changed = self.changed(file, |content| change(content, len));
            self.fits_up_to(file, offset + len, &changed)
                .then_some(changed)
        };
        let (mut least, mut beyond) = (0, len + 1);
        let mut done = None;
        let mut tried = len;
        while beyond - least > 1 {
            match fits(tried) {
                Some(changed) => (least, done) = (tried, Some(changed)),
                None => beyond = tried,
            }
            tried = least + (beyond - least) / 2;
        }
        self.put(file, done.ok_or(Errno::DQUOT)?);
        Ok(Answer::Count(least))
    }

    pub(super) fn copy(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Outcome {
        let (source, target) = (self.open_file(from.0)?, self.writable(to.0, Errno::BADF)?);
        if source.access == Access::Write || target.append {
            return Err(Errno::BADF);
        }
        let content = self.content(source.file).cloned().unwrap_or_default();
        let len = len.min(content.size.saturating_sub(from.1));
        let apart = from.1 + len <= to.1 || to.1 + len <= from.1;
        if source.file == target.file && !apart {
            return Err(Errno::INVAL);
        }
        if len == 0 {
            return Ok(Answer::Count(0));
        }
        if self.is_taken_over((source.file, from.1), (target.file, to.1), len) {
            let changed = self.changed(target.file, |changed| changed.take_over(&content));
            self.put(target.file, changed);
            return Ok(Answer::Count(len));
        }
        self.put_what_fits(target.file, (to.1, len), |changed, len| {
            changed.copy(&content, &(from.1..from.1 + len), to.1);
        })
    }

    /// Whether a copy gives one file all that another has published, holes as holes, in place of all it had.
    fn is_taken_over(&self, from: (Id, u64), to: (Id, u64), len: u64) -> bool {
        let (Some(source), Some(target)) = (self.content(from.0), self.content(to.0)) else {
            return false;
        };
        let are_named = [from.0, to.0].iter().all(|id| self.node(*id).nlink > 0);
        let is_whole = (from.1, to.1) == (0, 0) && len >= source.size && target.size <= source.size;
        let is_shared = from.0 != to.0 && are_named && is_whole && source.is_shareable();
        is_shared && self.fits(to.0, source)
    }

    /// The open files, from and to, between which a copy of all takes holes over.
    pub(super) fn pairs_to_take_over(&self) -> Vec<(usize, usize)> {
        let is_one = |(from, to): &(usize, usize)| {
            let (Ok(source), Ok(target)) = (self.open_file(*from), self.open_file(*to)) else {
                return false;
            };
            let has_holes = |content: &Content| !content.is_data(&(0..content.size));
            source.access != Access::Write
                && target.access != Access::Read
                && !target.append
                && self.content(source.file).is_some_and(has_holes)
                && self.is_taken_over((source.file, 0), (target.file, 0), u64::MAX)
        };
        let all = (0..FILES).flat_map(|from| (0..FILES).map(move |to| (from, to)));
        all.filter(is_one).collect()
    }

    pub(super) fn resize_open(&mut self, at: usize, size: u64) -> Outcome {
        let open = self.writable(at, Errno::INVAL)?;
        self.resize(open.file, size)
    }

    /// Sets the length of a file.
    pub(super) fn resize(&mut self, file: Id, size: u64) -> Outcome {
        let changed = self.changed(file, |content| content.resize(size));
        // Down is never refused, also where a hole at the end counts as data then.
        if size > self.node(file).size() && !self.fits_up_to(file, size, &changed) {
            return Err(Errno::DQUOT);
        }
        self.put(file, changed);
        Ok(Answer::Done)
    }

    pub(super) fn allocate(
        &mut self,
        at: usize,
        offset: u64,
        len: u64,
        how: Allocation,
    ) -> Outcome {
        self.open_file(at)?;
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let open = self.writable(at, Errno::BADF)?;
        let range = offset..offset + len;
        let mut changes = false;
        let changed = self.changed(open.file, |content| changes = content.allocate(&range, how));
        if how != Allocation::Punch && !self.fits(open.file, &changed) {
            return Err(Errno::DQUOT);
        }
        if changes {
            self.put(open.file, changed);
        } else {
            self.node_mut(open.file).body = Body::File(changed);
        }
        Ok(Answer::Done)
    }

    /// Whether it can be told what a call must answer.
    pub(super) fn is_told(&self, call: &Call) -> bool {
        match call {
            Call::Allocate {
                at,
                offset,
                len,
                how: Allocation::Punch,
            } => {
                let file = self.open_file(*at).map(|open| open.file);
                let content = file.ok().and_then(|file| self.content(file));
                let range = *offset..offset + len;
                content.is_none_or(|content| !content.is_open_what_punching_leaves(&range))
            }
            Call::Copy { from, to, len } => self.is_copy_told(*from, *to, *len),
            // Of one past its pages that is refused the kernel makes a truncation, which moves times.
            Call::Write {
                at, offset, len, ..
            } => {
                let Some(open) = self.open_file(*at).ok().filter(|open| open.direct) else {
                    return true;
                };
                let (at, len) = (self.landing(&open, *offset), u64::from(*len));
                let changed = self.changed(open.file, |content| content.write(at, len, 0));
                self.fits(open.file, &changed)
            }
            _ => true,
        }
    }

    /// Between equal places, holes of what is published stay holes; else they are zeros.
    fn is_copy_told(&self, from: (usize, u64), to: (usize, u64), len: u64) -> bool {
        let (Ok(source), Ok(target)) = (self.open_file(from.0), self.open_file(to.0)) else {
            return true;
        };
        let Some(content) = self.content(source.file) else {
            return true;
        };
        let are_orphans = [source.file, target.file].map(|id| self.node(id).nlink == 0);
        from.1 != to.1
            || are_orphans.contains(&true)
            || content.is_data(&(from.1..from.1 + len))
            || self.is_taken_over((source.file, from.1), (target.file, to.1), len)
    }

    /// Whether a call asks for room behind the end of a file.
    pub(super) fn keeps_room(&self, call: &Call) -> bool {
        let Call::Allocate {
            at,
            offset,
            len,
            how: Allocation::Keep | Allocation::ZeroKeep,
        } = call
        else {
            return false;
        };
        let file = self.open_file(*at).map(|open| open.file);
        let content = file.ok().and_then(|file| self.content(file));
        content.is_some_and(|content| offset + len > content.size)
    }

    pub(super) fn seek(&self, at: usize, offset: u64, hole: bool) -> Outcome {
        let open = self.open_file(at)?;
        let content = self.content(open.file).ok_or(Errno::BADF)?;
        match offset < content.size {
            true => Ok(Answer::Found(open.file, offset, hole)),
            false => Err(Errno::NXIO),
        }
    }

    /// The content of a file after a change.
    fn changed(&self, file: Id, change: impl FnOnce(&mut Content)) -> Content {
        let mut content = self.content(file).cloned().unwrap_or_default();
        change(&mut content);
        content
    }

    /// Whether the quota has room for a content; what has no name is charged nothing.
    fn fits(&self, file: Id, content: &Content) -> bool {
        self.fits_up_to(file, u64::MAX, content)
    }

    /// As [`Reference::fits`], of a write or growth up to `end`, which small new files may use the reserve for.
    fn fits_up_to(&self, file: Id, end: u64, content: &Content) -> bool {
        let before = self.content(file).map_or(0, Content::charge);
        self.node(file).nlink == 0 || self.has_room_up_to(file, end, before, content.charge())
    }

    fn put(&mut self, file: Id, mut content: Content) {
        content.published = Published::Open;
        let now = Stamp::Step(self.now);
        let node = self.node_mut(file);
        node.body = Body::File(content);
        (node.mtime, node.ctime) = (now, now);
    }

    pub(super) fn open_dir(&mut self, at: usize, path: &[u8]) -> Outcome {
        self.scans[at] = None;
        let dir = self.find(path)?;
        let entries = self.entries(dir).ok_or(match self.node(dir).body {
            Body::Symlink(_) => Errno::LOOP,
            _ => Errno::NOTDIR,
        })?;
        self.scans[at] = Some(Scan::new(dir, entries.keys().copied()));
        Ok(Answer::Done)
    }

    pub(super) fn scan(&self, at: usize) -> Result<&Scan, Errno> {
        self.scans[at].as_ref().ok_or(Errno::BADF)
    }

    /// An open directory.
    pub(crate) fn open_scan(&self, at: usize) -> Option<&Scan> {
        self.scans[at].as_ref()
    }

    pub(super) fn read_dir(&self, at: usize) -> Outcome {
        let dir = self.scan(at)?.dir;
        // Removed meanwhile.
        self.nodes.get(&dir).ok_or(Errno::NOENT)?;
        Ok(Answer::Items(at))
    }
}
