//! New names: files, directories, symlinks, nodes, links. All of them growth.

use super::quota::{Claim, SCRATCH, signed};
use super::volume::Volume;
use super::{Attr, Caller, FsError, Kind, acl};
use crate::journal::record::{Content, Cookie, Directory, Entry, Inode, Xattr};
use crate::journal::{Batch, key};
use crate::pack::charge;
use crate::types::Ino;

/// Greatest length of a name, bytes (`NAME_MAX`).
pub(super) const MAX_NAME: usize = 255;

/// Greatest length of a symlink's target, bytes (`PATH_MAX` without its NUL).
const MAX_TARGET: usize = 4095;

/// Greatest number of links to one inode.
const MAX_LINKS: u32 = 65_000;

/// What a new inode is.
pub(super) struct NewInode<'a> {
    pub(super) kind: Kind,
    /// As its maker asks for it, before the umask.
    pub(super) mode: u16,
    pub(super) rdev: u32,
    pub(super) target: &'a [u8],
}

impl Volume {
    /// Makes a new inode as `name` in `dir`.
    pub(super) fn create(
        &self,
        caller: Caller,
        dir: Ino,
        name: &[u8],
        new: &NewInode,
    ) -> Result<Attr, FsError> {
        check_name(name)?;
        if new.target.len() > MAX_TARGET {
            return Err(FsError::NameTooLong);
        }
        let directory = new.kind == Kind::Directory;
        let may_be_small = directory || new.kind == Kind::File;
        match may_be_small {
            true => self.quota().admit_new(self.clock.as_ref())?,
            false => self.quota().check_write(self.clock.as_ref())?,
        }
        self.check_room(0)?;
        let names = self.lock_names();
        let mut parent = self.inode(dir)?;
        if self.entry_to_change(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let (mode, xattrs) = match new.kind {
            Kind::Symlink => (new.mode, Vec::new()),
            _ => acl::inherit(&parent.xattrs, new.mode, caller.umask, directory),
        };
        let cost = charge::entry_charge(name, sum_xattrs(&xattrs), new.target.len() as u64)
            + if directory { charge::DIRECTORY } else { 0 };
        let mut reserved = self.quota.reservation();
        let mut claim = Claim::Ordinary;
        if let Err(full) = reserved.grow(cost) {
            if !may_be_small {
                return Err(full);
            }
            claim = Claim::SmallFile;
            reserved = self.quota.reservation_for(claim);
            reserved.grow(cost)?;
        }

        let now = self.clock.wall_ns();
        let ino = Ino(self.journal.next_ino());
        let inherits_group = parent.mode & 0o2000 != 0;
        let inode = Inode {
            kind: new.kind as u8,
            mode: (mode & 0o7777)
                | if inherits_group && directory {
                    0o2000
                } else {
                    0
                },
            uid: caller.uid,
            gid: if inherits_group {
                parent.gid
            } else {
                caller.gid
            },
            nlink: if directory { 2 } else { 1 },
            rdev: new.rdev,
            mtime_ns: now,
            ctime_ns: now,
            birth_ns: now,
            hard: false,
            target: new.target.to_vec(),
            xattrs,
            atime_ns: now,
        };
        let mut batch = Batch::default();
        batch.put(key::inode(ino), &inode);
        match new.kind {
            Kind::File => {
                let content = Content {
                    mtime_ns: now,
                    ctime_ns: now,
                    inline: Some(Vec::new().into()),
                    version: self.journal.next_version(),
                    ..Content::default()
                };
                batch.put(key::content(ino), &content);
                batch.mark(key::dirty_inode(ino));
            }
            Kind::Directory => {
                let state = Directory {
                    loaded: true,
                    published: None,
                };
                batch.put(key::directory(ino), &state);
                batch.mark(key::dirty_inode(ino));
                parent.nlink += 1;
            }
            _ => {}
        }
        self.add_name(&mut batch, dir, name, ino, new.kind);
        touch_directory(&mut batch, dir, &mut parent, now);
        batch.charge(signed(cost));
        batch.count_inodes(1);
        if may_be_small
            && let Some(record) = self.quota().note_scratch(self.clock.as_ref(), ino, claim)?
        {
            batch.put_bytes(key::meta(SCRATCH), record);
        }
        self.apply(batch)
            .inspect_err(|_| _ = self.quota().forget_scratch(ino))?;
        reserved.confirm();
        drop(names);
        self.attr_of(ino, &inode, None)
    }

    /// Gives `ino` the further name `name` in `dir`.
    pub(super) fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr, FsError> {
        check_name(name)?;
        self.quota().check_write(self.clock.as_ref())?;
        self.check_room(0)?;
        let names = self.lock_names();
        let mut parent = self.inode(dir)?;
        let mut inode = self.inode(ino)?;
        let kind = Kind::from_number(inode.kind)?;
        if kind == Kind::Directory {
            return Err(FsError::NotPermitted);
        }
        if inode.nlink == 0 {
            return Err(FsError::NotFound);
        }
        if inode.nlink >= MAX_LINKS {
            return Err(FsError::TooManyLinks);
        }
        if self.entry_to_change(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let now = self.clock.wall_ns();
        let mut cost = signed(charge::entry_charge(name, 0, 0));
        if !inode.hard {
            // Its attributes move from its name into a row of the inode table.
            cost += hard_surcharge(&inode);
        }
        let mut batch = Batch::default();
        if !inode.hard {
            self.mark_names(&mut batch, ino)?;
        }
        let mut reserved = self.quota.reservation();
        reserved.grow(u64::try_from(cost).unwrap_or(0))?;
        inode.hard = true;
        inode.nlink += 1;
        inode.ctime_ns = now;
        batch.put(key::inode(ino), &inode);
        batch.mark(key::dirty_inode(ino));
        self.add_name(&mut batch, dir, name, ino, kind);
        touch_directory(&mut batch, dir, &mut parent, now);
        batch.charge(cost);
        self.apply(batch)?;
        reserved.confirm();
        drop(names);
        self.getattr(ino)
    }

    /// Adds the records of a name, listed where it was if it was there a moment ago.
    pub(super) fn add_name(&self, batch: &mut Batch, dir: Ino, name: &[u8], ino: Ino, kind: Kind) {
        let before = self.places.lock().take(dir, name);
        let cookie = before.unwrap_or_else(|| self.journal.next_cookies(1));
        batch.put(
            key::entry(dir, name),
            &Entry {
                ino: ino.0,
                kind: kind as u8,
                cookie,
            },
        );
        batch.put(
            key::cookie(dir, cookie),
            &Cookie {
                ino: ino.0,
                kind: kind as u8,
                name: name.to_vec(),
            },
        );
        batch.set(key::link(ino, dir, name));
        batch.mark(key::dirty_entry(dir, name));
    }

    /// Marks every name of `ino` as changed.
    pub(super) fn mark_names(&self, batch: &mut Batch, ino: Ino) -> Result<(), FsError> {
        for (found, _) in self.journal.scan(&key::links(ino), None, usize::MAX)? {
            if let Some((dir, name)) = key::parse_link(&found) {
                batch.mark(key::dirty_entry(dir, name));
            }
        }
        Ok(())
    }
}

/// What an inode's charge grows by with its second name, besides the name: may be negative.
pub(super) fn hard_surcharge(inode: &Inode) -> i64 {
    let xattrs = xattrs_bytes(inode);
    let target = inode.target.len() as u64;
    let any = b"";
    signed(charge::row_charge(xattrs, target)) + signed(charge::entry_charge(any, 0, 0))
        - signed(charge::entry_charge(any, xattrs, target))
}

/// What an inode's extended attributes count.
pub(super) fn xattrs_bytes(inode: &Inode) -> u64 {
    sum_xattrs(&inode.xattrs)
}

fn sum_xattrs(xattrs: &[Xattr]) -> u64 {
    charge::xattrs_bytes((xattrs.iter()).map(|x| (x.name.as_slice(), x.value.as_slice())))
}

/// A directory's content changed.
pub(super) fn touch_directory(batch: &mut Batch, dir: Ino, inode: &mut Inode, now_ns: i64) {
    inode.mtime_ns = now_ns;
    inode.ctime_ns = now_ns;
    batch.put(key::inode(dir), inode);
    batch.mark(key::dirty_inode(dir));
}

/// Refuses what is no name of an entry.
pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.len() > MAX_NAME {
        return Err(FsError::NameTooLong);
    }
    let reserved = name.is_empty() || name == b"." || name == b"..";
    if reserved || name.iter().any(|&b| b == b'/' || b == 0) {
        return Err(FsError::Invalid);
    }
    Ok(())
}
