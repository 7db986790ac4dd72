//! The user's calls on names and attributes.

use super::{Done, History, MOST_DIRS};
use crate::fs::tests::crash::model::{Act, Place, Step};
use crate::fs::tests::crash::text::pattern;
use crate::fs::tests::crash::world::World;
use crate::fs::tests::rig::CALLER;
use crate::fs::{Kind, SetAttr};
use crate::types::Ino;

impl History<'_> {
    pub(super) fn rename(&mut self) -> Done {
        let all = self.places(|_| true);
        let (Some((from, ino)), Some(to)) = (self.dice.pick(&all), self.free_place()) else {
            return Ok(());
        };
        // Not below itself.
        if self.is_below(to.0, ino) {
            return Ok(());
        }
        let step = Step::Rename(from.clone(), to.clone());
        self.call(Act::Names(step), |world| rename(world, &from, &to, 0))?;
        Ok(())
    }

    fn is_below(&self, dir: u64, above: u64) -> bool {
        let mut at = Some(dir);
        while let Some(here) = at {
            if here == above {
                return true;
            }
            let entries = &self.model.tree.entries;
            at = entries
                .iter()
                .find(|(_, ino)| **ino == here)
                .map(|((dir, _), _)| *dir);
        }
        false
    }

    /// Renames a file over another, most often one just written.
    pub(super) fn replace(&mut self) -> Done {
        let Some((to, old)) = self.pick_file() else {
            return Ok(());
        };
        let Some((from, new)) = self.pick_file() else {
            return Ok(());
        };
        if new == old {
            return Ok(());
        }
        if self.dice.below(2) == 0 {
            self.open_and_write(new)?;
        }
        let step = Step::Rename(from.clone(), to.clone());
        self.call(Act::Replace(step, vec![new]), |world| {
            rename(world, &from, &to, 0)
        })?;
        Ok(())
    }

    pub(super) fn exchange(&mut self) -> Done {
        let (Some((one, first)), Some((other, second))) = (self.pick_file(), self.pick_file())
        else {
            return Ok(());
        };
        if first == second {
            return Ok(());
        }
        let step = Step::Exchange(one.clone(), other.clone());
        self.call(Act::Replace(step, vec![first, second]), |world| {
            rename(world, &one, &other, 2)
        })?;
        Ok(())
    }

    pub(super) fn link(&mut self) -> Done {
        let (Some((_, ino)), Some(to)) = (self.pick_file(), self.free_place()) else {
            return Ok(());
        };
        self.call(Act::Names(Step::Link(ino, to.clone())), |world| {
            let made = world.drive.link(Ino(ino), Ino(to.0), to.1.as_bytes());
            made.map(drop)
        })?;
        Ok(())
    }

    /// Removes a name; now and then the file is open, and the name is used again at once.
    pub(super) fn unlink(&mut self) -> Done {
        let Some((place, ino)) = self.pick_file() else {
            return Ok(());
        };
        let removed = self.call(Act::Names(Step::Remove(place.clone())), |world| {
            world.drive.unlink(Ino(place.0), place.1.as_bytes())?;
            world.drive.forget(Ino(ino), || false);
            Ok(())
        })?;
        if !removed {
            return Ok(());
        }
        let handle = self.handles.iter().find(|handle| handle.ino == ino);
        if let Some((fh, append)) = handle.map(|handle| (handle.fh, handle.append)) {
            self.write_at(ino, fh, append)?;
        }
        if self.dice.below(2) == 0
            && let Some((ino, fh)) = self.make_file(&place, 0)?
        {
            self.write_at(ino, fh, false)?;
        }
        Ok(())
    }

    pub(super) fn folders(&mut self) -> Done {
        let dirs = self.places(|kind| kind == Kind::Directory);
        if dirs.len() < MOST_DIRS && self.dice.below(3) > 0 {
            let Some(place) = self.free_place() else {
                return Ok(());
            };
            let (dir, name) = (Ino(place.0), place.1.clone());
            let mkdir = |world: &World| world.drive.mkdir(CALLER, dir, name.as_bytes(), 0o755);
            self.make(&place, (&[], 0), mkdir, |attr| attr)?;
            return Ok(());
        }
        let entries = &self.model.tree.entries;
        let is_empty = |ino: u64| !entries.keys().any(|(dir, _)| *dir == ino);
        if let Some((place, _)) = dirs.into_iter().find(|(_, ino)| is_empty(*ino)) {
            self.call(Act::Names(Step::Remove(place.clone())), |world| {
                world.drive.rmdir(Ino(place.0), place.1.as_bytes())
            })?;
        }
        Ok(())
    }

    pub(super) fn special(&mut self) -> Done {
        let Some(place) = self.free_place() else {
            return Ok(());
        };
        let (dir, name) = (Ino(place.0), place.1.clone());
        if self.dice.below(2) == 0 {
            let symlink =
                |world: &World| world.drive.symlink(CALLER, dir, name.as_bytes(), b"target");
            self.make(&place, (b"target", 0), symlink, |attr| attr)?;
        } else {
            let number = 1 + self.dice.below(1 << 20) as u32;
            let (kind, rdev) = match self.dice.below(3) {
                0 => (Kind::Fifo, 0),
                1 => (Kind::CharDevice, number),
                _ => (Kind::BlockDevice, number),
            };
            let mknod = |world: &World| {
                let drive = &world.drive;
                drive.mknod(CALLER, dir, name.as_bytes(), kind, 0o600, rdev)
            };
            self.make(&place, (&[], rdev), mknod, |attr| attr)?;
        }
        Ok(())
    }

    pub(super) fn attributes(&mut self) -> Done {
        let all = self.places(|kind| kind != Kind::Symlink);
        let Some((_, ino)) = self.dice.pick(&all) else {
            return Ok(());
        };
        let name = b"user.note".to_vec();
        let has = self.model.tree.nodes[&ino].xattrs.contains_key(&name);
        let is_file = self.model.tree.nodes[&ino].kind == Kind::File;
        let set =
            |set: SetAttr| move |world: &World| world.drive.setattr(Ino(ino), None, &set).map(drop);
        match self.dice.below(5) {
            0 => {
                let mode = 0o600 + self.dice.below(0o100) as u16;
                let chmod = SetAttr {
                    mode: Some(mode),
                    ..SetAttr::default()
                };
                self.call(Act::Names(Step::Mode(ino, mode)), set(chmod))?;
            }
            1 => {
                let owner = (self.dice.below(3) as u32, self.dice.below(3) as u32);
                let chown = SetAttr {
                    uid: Some(owner.0),
                    gid: Some(owner.1),
                    ..SetAttr::default()
                };
                self.call(Act::Names(Step::Owner(ino, owner)), set(chown))?;
            }
            2 if is_file => {
                let mtime_ns = self.dice.below(1 << 60) as i64;
                let utimens = SetAttr {
                    mtime_ns: Some(mtime_ns),
                    ..SetAttr::default()
                };
                self.call(Act::Time(ino, mtime_ns), set(utimens))?;
            }
            3 if has => {
                let step = Step::Xattr(ino, name.clone(), None);
                self.call(Act::Names(step), |world| {
                    world.drive.removexattr(Ino(ino), &name)
                })?;
            }
            _ => {
                let value = pattern(self.fresh(), 0, 1 + self.dice.below(300) as usize);
                let step = Step::Xattr(ino, name.clone(), Some(value.clone()));
                self.call(Act::Names(step), |world| {
                    world.drive.setxattr(CALLER, Ino(ino), &name, &value, 0)
                })?;
            }
        }
        Ok(())
    }
}

fn rename(world: &World, from: &Place, to: &Place, flags: u32) -> Done {
    let (dir, name) = (Ino(from.0), from.1.as_bytes());
    let replaced = world.drive.lookup(Ino(to.0), to.1.as_bytes());
    world
        .drive
        .rename(dir, name, Ino(to.0), to.1.as_bytes(), flags)?;
    if let Ok(replaced) = replaced {
        world.drive.forget(replaced.ino, || false);
    }
    Ok(())
}
