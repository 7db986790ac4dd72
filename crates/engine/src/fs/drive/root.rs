//! The root of the mount: a read-only directory with one entry a token.

use super::slots::Shows;
use super::trash::Trash;
use super::{Drive, outer_attr, outer_ino};
use crate::fs::create::MAX_NAME;
use crate::fs::{Attr, DirItem, FsError, Kind};
use crate::types::Ino;

/// Directories that a listing takes at a time.
const PAGE: usize = 256;

impl Drive {
    pub(super) fn root_attr(&self) -> Attr {
        let tokens = self.slots.count();
        self.new_directory(u32::try_from(tokens).unwrap_or(u32::MAX).saturating_add(2))
    }

    /// A directory of the drive's owner, with so many links.
    fn new_directory(&self, nlink: u32) -> Attr {
        Attr {
            ino: Ino::ROOT,
            kind: Kind::Directory,
            size: 4096,
            blocks: 0,
            mode: 0o755,
            nlink,
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
        let (slot, shows) = self.slots.find(name).ok_or(FsError::NotFound)?;
        self.token_attr(slot, &shows)
    }

    /// The attributes of a token's directory. Those of one that nobody has used yet are a new one's.
    pub(super) fn token_attr(&self, slot: u16, shows: &Shows) -> Result<Attr, FsError> {
        let attr = match shows {
            Shows::Volume(volume) => volume.getattr(Ino::ROOT)?,
            Shows::Unused(_) => self.new_directory(2),
        };
        Ok(outer_attr(slot, attr))
    }

    pub(super) fn read_root(
        &self,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<(), FsError> {
        for (own, name) in [(1, &b"."[..]), (2, b"..")] {
            let item = DirItem {
                cookie: own,
                ino: Ino::ROOT,
                kind: Kind::Directory,
                name: name.to_vec(),
            };
            if own > cookie && !add(&item, None) {
                return Ok(());
            }
        }
        let mut last = u16::try_from(cookie.saturating_sub(2)).unwrap_or(u16::MAX);
        loop {
            let page = self.slots.after(last, PAGE);
            for (slot, name, shows) in &page {
                let attr = match plus {
                    true => Some(self.token_attr(*slot, shows)?),
                    false => None,
                };
                let item = DirItem {
                    cookie: u64::from(*slot) + 2,
                    ino: outer_ino(*slot, Ino::ROOT),
                    kind: Kind::Directory,
                    name: name.clone(),
                };
                if !add(&item, attr.as_ref()) {
                    return Ok(());
                }
            }
            match page.last() {
                Some((slot, ..)) => last = *slot,
                None => return Ok(()),
            }
        }
    }
}
