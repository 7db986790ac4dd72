//! The user's calls on names and attributes.

use super::{History, MOST_DIRS};
use crate::fs::tests::crash::model::{Act, Place, Step};
use crate::fs::tests::crash::text::pattern;
use crate::fs::tests::crash::world::World;
use crate::fs::tests::rig::{CALLER, READ_WRITE};
use crate::fs::{Kind, SetAttr};
use crate::types::Ino;

impl History<'_> {
    pub(super) fn rename(&mut self) {
        let all = self.places(|_| true);
        let (Some((from, ino)), Some(to)) = (self.dice.pick(&all), self.free_place()) else {
            return;
        };
        // Not below itself.
        if self.is_below(to.0, ino) {
            return;
        }
        let step = Step::Rename(from.clone(), to.clone());
        self.call(Act::Names(step), |world| rename(world, &from, &to, 0));
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
    pub(super) fn replace(&mut self) {
        let Some((to, old)) = self.pick_file() else {
            return;
        };
        let Some((from, new)) = self.pick_file() else {
            return;
        };
        if new == old {
            return;
        }
        if self.dice.below(2) == 0 {
            self.open_and_write(new);
        }
        let step = Step::Rename(from.clone(), to.clone());
        self.call(Act::Replace(step, vec![new]), |world| {
            rename(world, &from, &to, 0)
        });
    }

    pub(super) fn exchange(&mut self) {
        let (Some((one, first)), Some((other, second))) = (self.pick_file(), self.pick_file())
        else {
            return;
        };
        if first == second {
            return;
        }
        let step = Step::Exchange(one.clone(), other.clone());
        self.call(Act::Replace(step, vec![first, second]), |world| {
            rename(world, &one, &other, 2);
        });
    }

    pub(super) fn link(&mut self) {
        let (Some((_, ino)), Some(to)) = (self.pick_file(), self.free_place()) else {
            return;
        };
        self.call(Act::Names(Step::Link(ino, to.clone())), |world| {
            let made = world.drive.link(Ino(ino), Ino(to.0), to.1.as_bytes());
            made.expect("link");
        });
    }

    /// Removes a name; now and then the file is open, and the name is used again at once.
    pub(super) fn unlink(&mut self) {
        let Some((place, ino)) = self.pick_file() else {
            return;
        };
        self.call(Act::Names(Step::Remove(place.clone())), |world| {
            let gone = world.drive.unlink(Ino(place.0), place.1.as_bytes());
            gone.expect("unlink");
        });
        let handle = self.handles.iter().find(|handle| handle.ino == ino);
        if let Some((fh, append)) = handle.map(|handle| (handle.fh, handle.append)) {
            self.write_at(ino, fh, append);
        }
        if self.dice.below(2) == 0 {
            let begun = self.world.power.now();
            let drive = &self.world.drive;
            let made = drive.create(CALLER, Ino(place.0), place.1.as_bytes(), 0o600, READ_WRITE);
            let (attr, opened) = made.expect("create");
            self.made(begun, place, &attr, &[]);
            self.keep_handle(attr.ino.0, opened.fh, false);
            self.write_at(attr.ino.0, opened.fh, false);
        }
    }

    pub(super) fn folders(&mut self) {
        let dirs = self.places(|kind| kind == Kind::Directory);
        if dirs.len() < MOST_DIRS && self.dice.below(3) > 0 {
            let Some(place) = self.free_place() else {
                return;
            };
            let begun = self.world.power.now();
            let drive = &self.world.drive;
            let made = drive.mkdir(CALLER, Ino(place.0), place.1.as_bytes(), 0o755);
            return self.made(begun, place, &made.expect("mkdir"), &[]);
        }
        let entries = &self.model.tree.entries;
        let is_empty = |ino: u64| !entries.keys().any(|(dir, _)| *dir == ino);
        if let Some((place, _)) = dirs.into_iter().find(|(_, ino)| is_empty(*ino)) {
            self.call(Act::Names(Step::Remove(place.clone())), |world| {
                let gone = world.drive.rmdir(Ino(place.0), place.1.as_bytes());
                gone.expect("rmdir");
            });
        }
    }

    pub(super) fn special(&mut self) {
        let Some(place) = self.free_place() else {
            return;
        };
        let begun = self.world.power.now();
        let (dir, name, drive) = (Ino(place.0), place.1.clone(), &self.world.drive);
        if self.dice.below(2) == 0 {
            let made = drive.symlink(CALLER, dir, name.as_bytes(), b"target");
            self.made(begun, place, &made.expect("symlink"), b"target");
        } else {
            let made = drive.mknod(CALLER, dir, name.as_bytes(), Kind::Fifo, 0o600, 0);
            self.made(begun, place, &made.expect("mknod"), &[]);
        }
    }

    pub(super) fn attributes(&mut self) {
        let all = self.places(|kind| kind != Kind::Symlink);
        let Some((_, ino)) = self.dice.pick(&all) else {
            return;
        };
        let name = b"user.note".to_vec();
        let has = self.model.tree.nodes[&ino].xattrs.contains_key(&name);
        match self.dice.below(3) {
            0 => {
                let mode = 0o600 + self.dice.below(0o100) as u16;
                self.call(Act::Names(Step::Mode(ino, mode)), |world| {
                    let set = SetAttr {
                        mode: Some(mode),
                        ..SetAttr::default()
                    };
                    world.drive.setattr(Ino(ino), None, &set).expect("chmod");
                });
            }
            1 if has => {
                let step = Step::Xattr(ino, name.clone(), None);
                self.call(Act::Names(step), |world| {
                    let gone = world.drive.removexattr(Ino(ino), &name);
                    gone.expect("removexattr");
                });
            }
            _ => {
                let value = pattern(self.fresh(), 0, 1 + self.dice.below(300) as usize);
                let step = Step::Xattr(ino, name.clone(), Some(value.clone()));
                self.call(Act::Names(step), |world| {
                    let set = world.drive.setxattr(Ino(ino), &name, &value, 0);
                    set.expect("setxattr");
                });
            }
        }
    }
}

fn rename(world: &World, from: &Place, to: &Place, flags: u32) {
    let (dir, name) = (Ino(from.0), from.1.as_bytes());
    let done = world
        .drive
        .rename(dir, name, Ino(to.0), to.1.as_bytes(), flags);
    done.expect("rename");
}
