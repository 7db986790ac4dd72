//! The trash of the mountpoint: what a file manager throws away goes into its own token.
//!
//! A file manager looks for `.Trash-UID` in the topmost directory of the same device (freedesktop.org's Trash
//! specification, 1.0), which is the mountpoint for every token: one mount is one device. So the mountpoint has that
//! directory for each user, with `info`, `files` and `expunged`. None of them is stored: what is in them lies in the
//! tokens, each of which has a `.Trash-UID` of its own. To throw something away is a rename within its token then.
//!
//! Invariant: what lies in a token's `.Trash-UID` is seen at the mountpoint alone, so that the kernel knows each entry
//! by one name. An entry is never moved between tokens; the file in `info` that tells where it came from follows it.
//! Called by the other calls of `drive`.

use std::sync::Arc;

use super::{Drive, outer_attr, outer_error, outer_ino};
use crate::fs::create::NewInode;
use crate::fs::io::Terms;
use crate::fs::volume::Volume;
use crate::fs::{Attr, Caller, DirItem, FsError, Kind, Want};
use crate::types::Ino;

/// Bits of a cookie that are the volume's.
const COOKIE_BITS: u32 = 47;
/// The longest file of `info` that follows its entry.
const INFO_MAX: u32 = 64 * 1024;
/// Writing by anybody.
const BY_ALL: u16 = 0o002;

/// One of the directories that the mountpoint has for the trash of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trash {
    uid: u32,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Top,
    Info,
    Files,
    Expunged,
}

/// Where an entry lies: slot, volume, and directory of the volume.
pub(super) type Place = (u16, Arc<Volume>, Ino);

impl Part {
    const ALL: [Self; 4] = [Self::Top, Self::Info, Self::Files, Self::Expunged];

    /// Its name in the top directory, which has none there.
    fn name(self) -> Option<&'static [u8]> {
        match self {
            Self::Top => None,
            Self::Info => Some(b"info"),
            Self::Files => Some(b"files"),
            Self::Expunged => Some(b"expunged"),
        }
    }
}

impl Trash {
    /// The directory that an entry of the mountpoint, or of a token, is by its name.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        let digits = name.strip_prefix(b".Trash-")?;
        let uid = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let part = Part::Top;
        let found = Self { uid, part };
        // No sign, no leading zero.
        (found.name() == name).then_some(found)
    }

    /// The directory that has this number: slot 0 has nothing else behind the mountpoint's own.
    pub(super) fn of(ino: Ino) -> Option<Self> {
        let number = ino.0.checked_sub(Ino::ROOT.0 + 1)?;
        let uid = u32::try_from(number / 4).ok()?;
        let part = *Part::ALL.get(usize::try_from(number % 4).ok()?)?;
        Some(Self { uid, part })
    }

    fn ino(self) -> Ino {
        Ino(Ino::ROOT.0 + 1 + u64::from(self.uid) * 4 + self.part as u64)
    }

    fn name(self) -> Vec<u8> {
        format!(".Trash-{}", self.uid).into_bytes()
    }

    fn with(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// Its directory of this name.
    fn child(self, name: &[u8]) -> Option<Self> {
        let is_top = self.part == Part::Top;
        let found = Part::ALL.into_iter().find(|p| p.name() == Some(name));
        found.filter(|_| is_top).map(|part| self.with(part))
    }

    /// Where it lies in a volume, if there.
    fn in_volume(self, volume: &Volume) -> Result<Option<Ino>, FsError> {
        let mut dir = Ino::ROOT;
        for name in [Some(self.name()), self.part.name().map(<[u8]>::to_vec)] {
            let Some(name) = name else { continue };
            dir = match volume.lookup(dir, &name) {
                Ok(found) if found.kind == Kind::Directory => found.ino,
                Err(FsError::NotLocal(want)) if !is_of_root(&want) => {
                    return Err(FsError::NotLocal(want));
                }
                // Nobody has looked into this token yet, or can: nothing is fetched of all tokens because one is used.
                Ok(_) | Err(_) => return Ok(None),
            };
        }
        Ok(Some(dir))
    }

    /// As [`Trash::in_volume`]; made, where it is missing.
    fn made_in(self, volume: &Volume) -> Result<Ino, FsError> {
        let by = Caller {
            uid: self.uid,
            gid: volume.getattr(Ino::ROOT)?.gid,
            umask: 0,
        };
        let mut dir = Ino::ROOT;
        for name in [Some(self.name()), self.part.name().map(<[u8]>::to_vec)] {
            let Some(name) = name else { continue };
            dir = match volume.lookup(dir, &name) {
                Ok(found) => found.ino,
                Err(FsError::NotFound) => {
                    let new = NewInode {
                        kind: Kind::Directory,
                        mode: 0o700,
                        rdev: 0,
                        target: &[],
                    };
                    match volume.create(by, dir, &name, &new) {
                        // Somebody else was faster.
                        Err(FsError::Exists) => volume.lookup(dir, &name)?.ino,
                        made => made?.ino,
                    }
                }
                Err(error) => return Err(error),
            };
        }
        Ok(dir)
    }
}

fn is_of_root(want: &Want) -> bool {
    matches!(want, Want::Directory { dir, .. } if *dir == Ino::ROOT)
}

impl Drive {
    pub(super) fn trash_attr(&self, trash: Trash) -> Attr {
        Attr {
            ino: trash.ino(),
            mode: 0o700,
            nlink: 2,
            uid: trash.uid,
            ..self.root_attr()
        }
    }

    pub(super) fn lookup_in_trash(&self, trash: Trash, name: &[u8]) -> Result<Attr, FsError> {
        if let Some(child) = trash.child(name) {
            return Ok(self.trash_attr(child));
        }
        if name == b".." {
            return Ok(match trash.part {
                Part::Top => self.root_attr(),
                _ => self.trash_attr(trash.with(Part::Top)),
            });
        }
        let (slot, volume, dir) = self.thrown(trash, name)?;
        let found = volume.lookup(dir, name);
        found
            .map(|attr| outer_attr(slot, attr))
            .map_err(|e| outer_error(slot, e))
    }

    /// Where the entry `name` lies.
    pub(super) fn thrown(&self, trash: Trash, name: &[u8]) -> Result<Place, FsError> {
        for (slot, _, volume) in self.volumes() {
            let found = match trash.in_volume(&volume) {
                Ok(Some(dir)) => volume.lookup(dir, name).map(|_| dir),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match found {
                Ok(dir) => return Ok((slot, volume, dir)),
                Err(error @ FsError::NotLocal(_)) => return Err(outer_error(slot, error)),
                Err(_) => {}
            }
        }
        Err(FsError::NotFound)
    }

    /// Makes something that belongs to no token yet, in the first one that takes it. What is thrown away is renamed, and
    /// takes its file of `info` along.
    pub(super) fn make_in_trash(
        &self,
        caller: Caller,
        trash: Trash,
        name: &[u8],
        new: &NewInode,
    ) -> Result<Attr, FsError> {
        self.check_free_in_trash(trash, name, None)?;
        let mut refused = FsError::NotPermitted;
        for (slot, _, volume) in self.volumes() {
            let made = self
                .may_throw(trash, slot, &volume)
                .and_then(|()| trash.made_in(&volume))
                .and_then(|dir| volume.create(caller, dir, name, new));
            match made {
                Ok(attr) => return Ok(outer_attr(slot, attr)),
                // One that is not here is loaded where no other takes it.
                Err(_) if matches!(refused, FsError::NotLocal(_)) => {}
                Err(error) => refused = outer_error(slot, error),
            }
        }
        Err(refused)
    }

    /// Where something of `slot` is thrown: into the same volume, with what `info` says of it.
    pub(super) fn throw(&self, trash: Trash, name: &[u8], slot: u16) -> Result<Ino, FsError> {
        let volume = self.volume(slot).ok_or(FsError::NotFound)?;
        self.check_free_in_trash(trash, name, Some(slot))?;
        self.may_throw(trash, slot, &volume)?;
        let made = trash.made_in(&volume).map_err(|e| outer_error(slot, e))?;
        if trash.part == Part::Files {
            self.bring_info(trash.with(Part::Info), name, slot, &volume)?;
        }
        Ok(made)
    }

    /// Refuses a name that is taken; not by what lies in the slot `by`, in whose place it is put.
    fn check_free_in_trash(
        &self,
        trash: Trash,
        name: &[u8],
        by: Option<u16>,
    ) -> Result<(), FsError> {
        if trash.child(name).is_some() {
            return Err(FsError::Exists);
        }
        match self.thrown(trash, name) {
            Ok((slot, ..)) if Some(slot) != by => Err(FsError::Exists),
            Err(error @ FsError::NotLocal(_)) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Brings the file of `info` for `name` into the volume that `name` goes to. Where that fails it stays, and is
    /// found all the same.
    fn bring_info(
        &self,
        info: Trash,
        name: &[u8],
        slot: u16,
        volume: &Volume,
    ) -> Result<(), FsError> {
        let name = [name, b".trashinfo"].concat();
        let (other, from, dir) = match self.thrown(info, &name) {
            Ok(found) if found.0 != slot => found,
            Err(error @ FsError::NotLocal(_)) => return Err(error),
            Ok(_) | Err(_) => return Ok(()),
        };
        // Here before it is written to, so that all else that has to be loaded is the other's.
        let to = info
            .made_in(volume)
            .and_then(|to| match volume.lookup(to, &name) {
                Err(FsError::NotFound) => Ok(to),
                found => found.and(Err(FsError::Exists)),
            });
        let brought = to.map_err(|e| outer_error(slot, e)).and_then(|to| {
            let copied = copy(&name, (&from, dir), (volume, to));
            let moved = copied.and_then(|()| from.unlink(dir, &name));
            moved.map_err(|e| outer_error(other, e))
        });
        match brought {
            Err(error @ FsError::NotLocal(_)) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "trash: a file of info stays in another token");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether the user may have a trash in the volume: whose it is, whose mount it is, and whom its directory is open to.
    /// Others would fill a quota that they cannot write to.
    fn may_throw(&self, trash: Trash, slot: u16, volume: &Volume) -> Result<(), FsError> {
        let root = volume.getattr(Ino::ROOT)?;
        let is_known = [0, self.owner.0, root.uid].contains(&trash.uid);
        match (is_known || root.mode & BY_ALL != 0) && !self.slots.is_aside(slot) {
            true => Ok(()),
            false => Err(FsError::NotPermitted),
        }
    }

    pub(super) fn read_trash(
        &self,
        trash: Trash,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<(), FsError> {
        let above = self.lookup_in_trash(trash, b"..")?;
        let dots = [
            (b".".to_vec(), self.trash_attr(trash)),
            (b"..".to_vec(), above),
        ];
        let parts = Part::ALL.iter().filter_map(|part| part.name());
        let parts = parts.filter_map(|name| {
            let child = trash.child(name)?;
            Some((name.to_vec(), self.trash_attr(child)))
        });
        for (own, (name, attr)) in (1..).zip(dots.into_iter().chain(parts)) {
            let item = DirItem {
                cookie: own,
                ino: attr.ino,
                kind: Kind::Directory,
                name,
            };
            let attr = (plus && own > 2).then_some(&attr);
            if own > cookie && !add(&item, attr) {
                return Ok(());
            }
        }
        let (first, inside) = (cookie >> COOKIE_BITS, cookie & ((1 << COOKIE_BITS) - 1));
        for (slot, _, volume) in self.volumes() {
            if u64::from(slot) < first {
                continue;
            }
            let after = if u64::from(slot) == first { inside } else { 0 };
            let listed = trash.in_volume(&volume).and_then(|dir| match dir {
                Some(dir) => self.list_thrown(trash, (slot, &volume, dir), after, plus, add),
                None => Ok(true),
            });
            if !listed.map_err(|e| outer_error(slot, e))? {
                break;
            }
        }
        Ok(())
    }

    /// The entries of one volume; false when there is no room for more.
    fn list_thrown(
        &self,
        trash: Trash,
        (slot, volume, dir): (u16, &Volume, Ino),
        after: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<bool, FsError> {
        let mut goes_on = true;
        volume.readdir(dir, after, plus, &mut |item, attr| {
            let is_dot = [&b"."[..], b".."].contains(&&*item.name);
            // One that another token has, too, is shown once, as it is found.
            let is_found = || matches!(self.thrown(trash, &item.name), Ok((of, ..)) if of == slot);
            if is_dot || trash.child(&item.name).is_some() || !is_found() {
                return true;
            }
            let item = DirItem {
                cookie: u64::from(slot) << COOKIE_BITS | item.cookie,
                ino: outer_ino(slot, item.ino),
                ..item.clone()
            };
            goes_on = add(&item, attr.map(|attr| outer_attr(slot, *attr)).as_ref());
            goes_on
        })?;
        Ok(goes_on)
    }
}

/// Copies a file of `info`, as it is; all of it, or none.
fn copy(
    name: &[u8],
    (from, dir): (&Volume, Ino),
    (to, to_dir): (&Volume, Ino),
) -> Result<(), FsError> {
    let found = from.lookup(dir, name)?;
    let file = from.hold(found.ino)?;
    let read = from.read(&file, 0, INFO_MAX);
    from.leave(file);
    let content = read?;
    if content.len() as u64 != found.size {
        return Err(FsError::TooLarge);
    }
    let by = Caller {
        uid: found.uid,
        gid: found.gid,
        umask: 0,
    };
    let new = NewInode {
        kind: Kind::File,
        mode: found.mode,
        rdev: 0,
        target: &[],
    };
    let made = to.create(by, to_dir, name, &new)?;
    let file = to.hold(made.ino)?;
    let written = to.write(&file, 0, &content, Terms::default());
    to.leave(file);
    let whole = written.and_then(|len| match len {
        Some(len) if len as usize == content.len() => Ok(()),
        _ => Err(FsError::Quota),
    });
    if whole.is_err() {
        // What cannot be removed is a part that nobody has taken the whole for: that stays.
        let _ = to.unlink(to_dir, name);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_directories_of_their_own_numbers() {
        for uid in [0, 1, 1000, u32::MAX] {
            let top = Trash::named(format!(".Trash-{uid}").as_bytes()).unwrap();
            for part in Part::ALL {
                let trash = top.with(part);
                assert_eq!(Trash::of(trash.ino()), Some(trash));
            }
        }
        assert_eq!(Trash::of(Ino::ROOT), None);
        // Those of the first token.
        assert_eq!(Trash::of(outer_ino(1, Ino::ROOT)), None);
        assert_eq!(Trash::of(outer_ino(u16::MAX - 1, Ino(77))), None);
    }

    #[test]
    fn no_other_name_is_taken_for_a_trash() {
        for name in [
            ".Trash",
            ".Trash-",
            ".Trash-01",
            ".Trash-+1",
            ".Trash-4294967296",
            "Trash-1",
            ".Trash-1000x",
        ] {
            assert_eq!(Trash::named(name.as_bytes()), None, "{name}");
        }
    }
}
