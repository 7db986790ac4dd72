//! Rename: atomic, over what is there or not, or exchanging both.
//!
//! The bytes of a file that takes the place of another are made durable before the batch that does it
//! (a file replaced by rename is the old one or the new one, never an empty one).

use super::climb::climb;
use super::create::{check_name, touch_directory};
use super::files::FileRef;
use super::locks::{Names, OrderedGuard};
use super::quota::signed;
use super::volume::Volume;
use super::{FsError, Kind};
use crate::journal::record::{Cookie, Entry, Inode};
use crate::journal::{Barrier, Batch, key};
use crate::pack::charge;
use crate::types::Ino;

/// `RENAME_NOREPLACE` and `RENAME_EXCHANGE` of renameat2(2).
const NO_REPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

/// One end of a rename.
struct End<'a> {
    dir: Ino,
    name: &'a [u8],
    entry: Entry,
    kind: Kind,
}

impl Volume {
    /// Renames `name` of `dir` to `to_name` of `to`.
    pub(super) fn rename(
        &self,
        dir: Ino,
        name: &[u8],
        to: Ino,
        to_name: &[u8],
        flags: u32,
    ) -> Result<(), FsError> {
        check_name(to_name)?;
        if flags & !(NO_REPLACE | EXCHANGE) != 0 || flags == NO_REPLACE | EXCHANGE {
            return Err(FsError::Invalid);
        }
        self.quota().check_change()?;
        self.journal.wait_for_room()?;
        let replaces = flags == 0;
        let mut going;
        let (names, from, target) = loop {
            let saved =
                self.save_before_replacing((dir, name), (to, to_name), flags & EXCHANGE != 0)?;
            let looked = replaces.then(|| self.going(to, to_name));
            going = looked.transpose()?;
            let names = self.lock_names();
            let from = self.end(dir, name)?.ok_or(FsError::NotFound)?;
            let target = self.end(to, to_name)?;
            // Somebody may have given the names to other files meanwhile.
            let found = target.as_ref().map(|to| (from.entry.ino, to.entry.ino));
            let is_still = match (&going, &target) {
                (Some(going), Some(target)) => going.is_still(&target.entry)?,
                _ => true,
            };
            if found.is_none() || (found == saved && is_still) {
                break (names, from, target);
            }
        };
        if from.kind == Kind::Directory {
            self.refuse_cycle(Ino(from.entry.ino), to)?;
        }
        match target {
            None if flags & EXCHANGE != 0 => Err(FsError::NotFound),
            None => self.move_name(names, &from, (to, to_name), None, &mut None),
            Some(_) if flags & NO_REPLACE != 0 => Err(FsError::Exists),
            Some(target) if target.entry.ino == from.entry.ino => Ok(()),
            Some(target) if flags & EXCHANGE != 0 => self.exchange(&from, &target),
            Some(target) => {
                match (from.kind == Kind::Directory, target.kind == Kind::Directory) {
                    (true, false) => return Err(FsError::NotDirectory),
                    (false, true) => return Err(FsError::IsDirectory),
                    (true, true) => self.check_empty(Ino(target.entry.ino))?,
                    (false, false) => {}
                }
                let none = &mut None;
                let held = going.as_mut().map_or(none, |going| &mut going.held);
                self.move_name(names, &from, (to, to_name), Some(&target), held)
            }
        }
    }

    /// Makes the bytes of what takes another's place durable; in an exchange both do. Gives the two
    /// inodes, where there are two.
    fn save_before_replacing(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        exchange: bool,
    ) -> Result<Option<(u64, u64)>, FsError> {
        let entry = |(dir, name)| self.entry_to_change(dir, name);
        let (Some(from), Some(to)) = (entry(from)?, entry(to)?) else {
            return Ok(None);
        };
        let both = Some((from.ino, to.ino));
        if self.without.lacks(Barrier::RenameSource) {
            return Ok(both);
        }
        for placed in [Some(from), exchange.then_some(to)].into_iter().flatten() {
            if let Some(held) = self.files.hold_known(Ino(placed.ino)) {
                let saved = self.save(&held);
                self.leave(held);
                saved?;
            }
        }
        Ok(both)
    }

    fn end<'a>(&self, dir: Ino, name: &'a [u8]) -> Result<Option<End<'a>>, FsError> {
        let Some(entry) = self.entry_to_change(dir, name)? else {
            return Ok(None);
        };
        Ok(Some(End {
            dir,
            name,
            entry,
            kind: Kind::from_number(entry.kind)?,
        }))
    }

    /// A directory cannot move below itself.
    fn refuse_cycle(&self, moved: Ino, to: Ino) -> Result<(), FsError> {
        climb(
            to,
            |at| self.parent_of(at),
            |at| match at == moved {
                true => Err(FsError::Invalid),
                false => Ok(true),
            },
        )
    }

    fn move_name(
        &self,
        names: OrderedGuard<'_, (), Names>,
        from: &End,
        (to, to_name): (Ino, &[u8]),
        replaced: Option<&End>,
        held: &mut Option<FileRef>,
    ) -> Result<(), FsError> {
        let now = self.clock.wall_ns();
        let ino = Ino(from.entry.ino);
        let (mut batch, mut reserved) = (Batch::default(), self.quota.reservation());
        let directory = from.kind == Kind::Directory;
        let lost = i64::from(directory && replaced.is_some());
        let moved = i64::from(directory && from.dir != to);
        self.shift_links(&mut batch, from.dir, to, moved, lost, now)?;
        self.touch_inode(&mut batch, ino, now)?;
        // What may fail is done: from here on a file that is replaced counts as unlinked.
        let unlinked = match replaced {
            Some(End {
                dir, name, entry, ..
            }) => self.drop_name(&mut batch, &mut reserved, *dir, name, entry, held)?,
            None => None,
        };
        self.take_name(&mut batch, from.dir, from.name, &from.entry);
        self.add_name(&mut batch, to, to_name, ino, from.kind);
        // A longer name is not growth: the reserve takes it.
        let cost = signed(charge::entry_charge(to_name, 0, 0))
            - signed(charge::entry_charge(from.name, 0, 0));
        batch.charge(cost);
        reserved.adjust(cost);
        self.end_removal(names, batch, reserved, unlinked)
    }

    fn exchange(&self, one: &End, other: &End) -> Result<(), FsError> {
        if other.kind == Kind::Directory {
            self.refuse_cycle(Ino(other.entry.ino), one.dir)?;
        }
        let now = self.clock.wall_ns();
        let mut batch = Batch::default();
        for (end, now_is) in [(one, other), (other, one)] {
            let ino = Ino(now_is.entry.ino);
            batch.put(
                key::entry(end.dir, end.name),
                &Entry {
                    ino: ino.0,
                    kind: now_is.entry.kind,
                    cookie: end.entry.cookie,
                },
            );
            batch.put(
                key::cookie(end.dir, end.entry.cookie),
                &Cookie {
                    ino: ino.0,
                    kind: now_is.entry.kind,
                    name: end.name.to_vec(),
                },
            );
            batch.remove(key::link(Ino(end.entry.ino), end.dir, end.name));
            batch.mark(key::dirty_entry(end.dir, end.name));
            self.touch_inode(&mut batch, ino, now)?;
        }
        for (end, now_is) in [(one, other), (other, one)] {
            batch.set(key::link(Ino(now_is.entry.ino), end.dir, end.name));
        }
        let moved =
            i64::from(one.kind == Kind::Directory) - i64::from(other.kind == Kind::Directory);
        let moved = if one.dir == other.dir { 0 } else { moved };
        self.shift_links(&mut batch, one.dir, other.dir, moved, 0, now)?;
        self.apply(batch)
    }

    /// Both directories changed; `moved` subdirectories went from one to the other, `lost` went
    /// from the other.
    fn shift_links(
        &self,
        batch: &mut Batch,
        from: Ino,
        to: Ino,
        moved: i64,
        lost: i64,
        now_ns: i64,
    ) -> Result<(), FsError> {
        let mut change = |dir: Ino, delta: i64| -> Result<(), FsError> {
            let mut inode = self.inode(dir)?;
            inode.nlink = add(inode.nlink, delta);
            touch_directory(batch, dir, &mut inode, now_ns);
            Ok(())
        };
        if from == to {
            return change(from, -lost);
        }
        change(from, -moved)?;
        change(to, moved - lost)
    }

    /// A renamed inode changes its change time.
    fn touch_inode(&self, batch: &mut Batch, ino: Ino, now_ns: i64) -> Result<(), FsError> {
        let mut inode: Inode = self.inode(ino)?;
        inode.ctime_ns = now_ns;
        batch.put(key::inode(ino), &inode);
        batch.mark(key::dirty_inode(ino));
        Ok(())
    }
}

fn add(count: u32, delta: i64) -> u32 {
    u32::try_from(i64::from(count) + delta).unwrap_or(0)
}
