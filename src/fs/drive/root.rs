//! The root of the mount: a read-only directory with one entry a token.

use super::trash::Trash;
use super::{Drive, outer_attr, outer_ino};
use crate::fs::create::MAX_NAME;
use crate::fs::{Attr, DirItem, FsError, Kind};
use crate::types::Ino;

impl Drive {
    pub(super) fn root_attr(&self) -> Attr {
        let tokens = self.volumes().len();
        Attr {
            ino: Ino::ROOT,
            kind: Kind::Directory,
            size: 4096,
            blocks: 0,
            mode: 0o755,
            nlink: u32::try_from(tokens).unwrap_or(u32::MAX).saturating_add(2),
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            atime_ns: self.born_ns,
            mtime_ns: self.born_ns,
            ctime_ns: self.born_ns,
            birth_ns: self.born_ns,
        }
    }

    pub(super) fn lookup_in_root(&self, name: &[u8]) -> Result<Attr, FsError> {
        if name.len() > MAX_NAME {
            return Err(FsError::NameTooLong);
        }
        if let Some(trash) = Trash::named(name) {
            return Ok(self.trash_attr(trash));
        }
        let (slot, volume) = self.slots.find(name).ok_or(FsError::NotFound)?;
        Ok(outer_attr(slot, volume.getattr(Ino::ROOT)?))
    }

    pub(super) fn read_root(
        &self,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<(), FsError> {
        let dots =
            [(1, &b"."[..]), (2, b"..")].map(|(own, name)| (own, name.to_vec(), Ino::ROOT, None));
        let tokens = self.volumes().into_iter().map(|(slot, name, volume)| {
            let ino = outer_ino(slot, Ino::ROOT);
            (
                u64::from(slot) + 2,
                name.into_bytes(),
                ino,
                Some((slot, volume)),
            )
        });
        for (own, name, ino, volume) in dots.into_iter().chain(tokens) {
            if own <= cookie {
                continue;
            }
            let attr = match volume.filter(|_| plus) {
                Some((slot, volume)) => Some(outer_attr(slot, volume.getattr(Ino::ROOT)?)),
                None => None,
            };
            let item = DirItem {
                cookie: own,
                ino,
                kind: Kind::Directory,
                name,
            };
            if !add(&item, attr.as_ref()) {
                break;
            }
        }
        Ok(())
    }
}
