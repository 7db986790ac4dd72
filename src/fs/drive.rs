//! The whole mount: a root directory that holds one directory a token.
//!
//! Invariant: an inode number of the mount is `slot << 48 | inode of the volume`; slot 0 is the
//! mount root, which holds inode 1 alone. A slot is never given to another volume in one run.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::create::NewInode;
use super::files::{File, FileRef};
use super::volume::Volume;
use super::{Attr, Caller, DirItem, FsError, Kind, SetAttr, StatFs, Want};
use crate::types::{Fh, Ino};

/// Bits of an inode number that are the volume's.
const INO_BITS: u32 = 48;

/// The flags of open(2) that matter here (Linux, all architectures that fuser knows).
const O_ACCMODE: i32 = 0o3;
const O_TRUNC: i32 = 0o1000;
const O_APPEND: i32 = 0o2000;

/// What `open` and `create` answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub fh: Fh,
    /// Whether pages of an earlier open may be kept (`FOPEN_KEEP_CACHE`).
    pub keep_cache: bool,
}

/// A token's directory.
struct Attached {
    name: Vec<u8>,
    volume: Arc<Volume>,
}

/// An open file.
struct Handle {
    slot: u16,
    volume: Arc<Volume>,
    /// There until the handle is dropped.
    file: Option<FileRef>,
    append: bool,
    writes: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.volume.leave(file);
        }
    }
}

/// The mount.
pub struct Drive {
    volumes: RwLock<BTreeMap<u16, Attached>>,
    handles: RwLock<HashMap<Fh, Arc<Handle>>>,
    next_fh: AtomicU64,
    owner: (u32, u32),
    born_ns: i64,
}

impl Drive {
    /// A mount without tokens, whose root belongs to `owner` (user, group).
    #[must_use]
    pub fn new(owner: (u32, u32), now_ns: i64) -> Self {
        Self {
            volumes: RwLock::default(),
            handles: RwLock::default(),
            next_fh: AtomicU64::new(1),
            owner,
            born_ns: now_ns,
        }
    }

    /// Shows `volume` as the directory `name`. `preferred` is the slot to number its inodes by, if
    /// it is free (1 to 65,534), else the next free one is taken; the slot is the answer.
    ///
    /// # Errors
    /// [`FsError::Exists`] when the name is taken, [`FsError::NoRoom`] when every slot is.
    pub fn attach(&self, name: &str, preferred: u16, volume: Arc<Volume>) -> Result<u16, FsError> {
        let mut volumes = self.volumes.write().unwrap_or_else(PoisonError::into_inner);
        if volumes
            .values()
            .any(|attached| attached.name == name.as_bytes())
        {
            return Err(FsError::Exists);
        }
        let slot = (0..u16::MAX - 1)
            .map(|step| {
                (u32::from(preferred.max(1)) - 1 + u32::from(step)) % (u32::from(u16::MAX) - 1) + 1
            })
            .filter_map(|slot| u16::try_from(slot).ok())
            .find(|slot| !volumes.contains_key(slot))
            .ok_or(FsError::NoRoom)?;
        let name = name.as_bytes().to_vec();
        volumes.insert(slot, Attached { name, volume });
        Ok(slot)
    }

    /// Shows the volume in `slot` no longer. Open handles keep it.
    pub fn detach(&self, slot: u16) {
        self.volumes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&slot);
    }

    /// The volumes that are shown, by slot, with their directories' names.
    #[must_use]
    pub fn volumes(&self) -> Vec<(u16, String, Arc<Volume>)> {
        let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        volumes
            .iter()
            .map(|(slot, a)| {
                (
                    *slot,
                    String::from_utf8_lossy(&a.name).into_owned(),
                    Arc::clone(&a.volume),
                )
            })
            .collect()
    }

    /// The volume in `slot`.
    #[must_use]
    pub fn volume(&self, slot: u16) -> Option<Arc<Volume>> {
        let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        volumes
            .get(&slot)
            .map(|attached| Arc::clone(&attached.volume))
    }

    /// The entry `name` of `parent`.
    ///
    /// # Errors
    /// [`FsError::NotFound`]; [`FsError::NotLocal`] when the directory must be loaded first.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        if parent == Ino::ROOT {
            let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
            let found = volumes.iter().find(|(_, attached)| attached.name == name);
            let (slot, volume) = found
                .map(|(slot, attached)| (*slot, Arc::clone(&attached.volume)))
                .ok_or(FsError::NotFound)?;
            drop(volumes);
            return Ok(outer_attr(slot, volume.getattr(Ino::ROOT)?));
        }
        self.on(parent, |volume, dir| volume.lookup(dir, name))
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`FsError::NotFound`] when it is gone.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        if ino == Ino::ROOT {
            return Ok(self.root_attr());
        }
        self.on(ino, |volume, ino| volume.getattr(ino))
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// [`FsError::Quota`] and [`FsError::Overdue`] for a greater length alone.
    pub fn setattr(&self, ino: Ino, _fh: Option<Fh>, set: &SetAttr) -> Result<Attr, FsError> {
        self.on_inner(ino, |volume, ino| volume.setattr(ino, set))
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for anything else.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let (_, volume, ino) = self.split(ino)?;
        volume.readlink(ino)
    }

    /// Makes a node: `kind` is anything but a directory or symlink; `mode` has the umask applied.
    ///
    /// # Errors
    /// Growth: see [`FsError::Quota`], [`FsError::Overdue`], [`FsError::NoRoom`].
    pub fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        mode: u16,
        rdev: u32,
    ) -> Result<Attr, FsError> {
        let rdev = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            rdev
        } else {
            0
        };
        self.make(caller, parent, name, kind, mode, rdev, &[])
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Growth, as [`Drive::mknod`].
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
    ) -> Result<Attr, FsError> {
        self.make(caller, parent, name, Kind::Directory, mode, 0, &[])
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// Growth, as [`Drive::mknod`].
    pub fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Attr, FsError> {
        self.make(caller, parent, name, Kind::Symlink, 0o777, 0, target)
    }

    /// Gives an inode a further name.
    ///
    /// # Errors
    /// [`FsError::CrossDevice`] between tokens; growth, as [`Drive::mknod`].
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        let (slot, volume, dir) = self.split_changed(parent)?;
        let (other, _, ino) = self.split_changed(ino)?;
        if slot != other {
            return Err(FsError::CrossDevice);
        }
        let attr = volume
            .link(ino, dir, name)
            .map_err(|e| outer_error(slot, e))?;
        Ok(outer_attr(slot, attr))
    }

    /// Removes a name.
    ///
    /// # Errors
    /// [`FsError::IsDirectory`]; never for want of quota.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let (slot, volume, dir) = self.split_changed(parent)?;
        volume.unlink(dir, name).map_err(|e| outer_error(slot, e))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError::NotEmpty`]; never for want of quota.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), FsError> {
        let (slot, volume, dir) = self.split_changed(parent)?;
        volume.rmdir(dir, name).map_err(|e| outer_error(slot, e))
    }

    /// Renames; `flags` as renameat2(2): 0, `RENAME_NOREPLACE` (1), `RENAME_EXCHANGE` (2).
    ///
    /// # Errors
    /// [`FsError::CrossDevice`] between tokens; never for want of quota.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        to: Ino,
        to_name: &[u8],
        flags: u32,
    ) -> Result<(), FsError> {
        let (slot, volume, dir) = self.split_changed(parent)?;
        let (other, _, to) = self.split_changed(to)?;
        if slot != other {
            return Err(FsError::CrossDevice);
        }
        volume
            .rename(dir, name, to, to_name, flags)
            .map_err(|e| outer_error(slot, e))
    }

    /// Opens a regular file; `flags` as open(2). `O_TRUNC` is applied here.
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for writing where nothing may be changed.
    pub fn open(&self, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        let (slot, volume, ino) = self.split(ino)?;
        if flags & O_ACCMODE != 0 || flags & O_TRUNC != 0 {
            volume.quota().check_change()?;
        }
        let file = volume.hold(ino)?;
        if flags & O_TRUNC != 0 {
            if let Err(error) = volume.resize(&file, 0) {
                volume.leave(file);
                return Err(error);
            }
        }
        Ok(self.opened(slot, volume, file, flags))
    }

    /// Makes and opens a regular file.
    ///
    /// # Errors
    /// Growth, as [`Drive::mknod`].
    pub fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u16,
        flags: i32,
    ) -> Result<(Attr, Opened), FsError> {
        let attr = self.make(caller, parent, name, Kind::File, mode, 0, &[])?;
        let (slot, volume, ino) = self.split(attr.ino)?;
        let file = volume.hold(ino)?;
        Ok((attr, self.opened(slot, volume, file, flags)))
    }

    /// Up to `len` bytes from `offset`; fewer at the end alone.
    ///
    /// # Errors
    /// [`FsError::NotLocal`] when some must be fetched first.
    pub fn read(&self, _ino: Ino, fh: Fh, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        self.with_handle(fh, |volume, _, file| volume.read(file, offset, len))
    }

    /// Writes. May write less than `data` when the quota has room for some bytes only.
    ///
    /// # Errors
    /// [`FsError::Quota`] when it has room for none; [`FsError::Overdue`], [`FsError::NoRoom`].
    pub fn write(
        &self,
        _ino: Ino,
        fh: Fh,
        offset: u64,
        data: &[u8],
        kill_set_id: bool,
    ) -> Result<u32, FsError> {
        self.with_handle(fh, |volume, handle, file| {
            if !handle.writes {
                return Err(FsError::BadHandle);
            }
            let written = volume.write(file, offset, data, handle.append)?;
            if kill_set_id {
                volume.kill_set_id(file.ino)?;
            }
            Ok(written)
        })
    }

    /// `close(2)` of one descriptor: reports what went wrong locally with earlier writes.
    ///
    /// # Errors
    /// Local errors.
    pub fn flush(&self, _ino: Ino, fh: Fh) -> Result<(), FsError> {
        self.with_handle(fh, |volume, handle, file| {
            if let (true, Some(reason)) = (handle.writes, volume.poisoned()) {
                return Err(FsError::Disk(reason));
            }
            // Small content goes into the journal's memory now, to be kept with the next batch.
            let small = handle.writes && file.body().inline.is_some();
            if small { volume.save(file) } else { Ok(()) }
        })
    }

    /// The last descriptor of the handle is gone.
    pub fn release(&self, _ino: Ino, fh: Fh) {
        let handle = {
            let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
            handles.remove(&fh)
        };
        // A call that still runs on it lets go of it when it ends.
        drop(handle);
    }

    /// Makes an inode, and every name, durable on this machine.
    ///
    /// # Errors
    /// A local disk failed.
    pub fn fsync(&self, ino: Ino, _data_only: bool) -> Result<(), FsError> {
        if ino == Ino::ROOT {
            return Ok(());
        }
        let (_, volume, ino) = self.split(ino)?;
        volume.fsync(ino)
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// [`FsError::NotLocal`] when it must be loaded first.
    pub fn opendir(&self, ino: Ino) -> Result<Fh, FsError> {
        if ino != Ino::ROOT {
            let (slot, volume, ino) = self.split(ino)?;
            volume
                .loaded_directory(ino)
                .map_err(|e| outer_error(slot, e))?;
        }
        Ok(self.new_fh())
    }

    /// Entries behind `cookie` in cookie order (`.` and `..` first) until `add` answers false.
    /// `add` gets the item and, with `plus`, the attributes (`None` for `.` and `..`).
    ///
    /// # Errors
    /// [`FsError::NotLocal`] when it must be loaded first.
    pub fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        plus: bool,
        add: &mut dyn FnMut(&DirItem, Option<&Attr>) -> bool,
    ) -> Result<(), FsError> {
        if ino == Ino::ROOT {
            return self.read_root(cookie, plus, add);
        }
        let (slot, volume, dir) = self.split(ino)?;
        let mut add_outer = |item: &DirItem, attr: Option<&Attr>| {
            let above = dir == Ino::ROOT && item.name == b"..";
            let outer = DirItem {
                ino: if above {
                    Ino::ROOT
                } else {
                    outer_ino(slot, item.ino)
                },
                ..item.clone()
            };
            add(&outer, attr.map(|attr| outer_attr(slot, *attr)).as_ref())
        };
        volume
            .readdir(dir, cookie, plus, &mut add_outer)
            .map_err(|e| outer_error(slot, e))
    }

    /// Closes a directory.
    pub fn releasedir(&self, _fh: Fh) {}

    /// Room and use: of the token that `ino` lies in, or of all.
    ///
    /// # Errors
    /// [`FsError::NotFound`] when the token is not shown any more.
    pub fn statfs(&self, ino: Ino) -> Result<StatFs, FsError> {
        if ino != Ino::ROOT {
            let (_, volume, _) = self.split(ino)?;
            return Ok(volume.statfs());
        }
        let mut sum = StatFs {
            blocks: 0,
            free: 0,
            files: 1,
            files_free: 0,
        };
        for (_, _, volume) in self.volumes() {
            let one = volume.statfs();
            sum.blocks = sum.blocks.saturating_add(one.blocks);
            sum.free = sum.free.saturating_add(one.free);
            sum.files = sum.files.saturating_add(one.files);
            sum.files_free = sum.files_free.saturating_add(one.files_free);
        }
        Ok(sum)
    }

    /// Sets an extended attribute; `flags` as setxattr(2).
    ///
    /// # Errors
    /// Growth, where it enlarges.
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<(), FsError> {
        let (_, volume, ino) = self.split_changed(ino)?;
        volume.setxattr(ino, name, value, flags)
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`].
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        if ino == Ino::ROOT {
            return Err(FsError::NoAttribute);
        }
        let (_, volume, ino) = self.split(ino)?;
        match name.strip_prefix(super::attributes::VIRTUAL) {
            Some(field) => volume.virtual_attribute(ino, field),
            None => volume.getxattr(ino, name),
        }
    }

    /// NUL-terminated names, as listxattr(2) gives them. Virtual attributes are not listed, so that
    /// no copy of a file tries to set them.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        if ino == Ino::ROOT {
            return Ok(Vec::new());
        }
        let (_, volume, ino) = self.split(ino)?;
        volume.listxattr(ino)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`].
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        let (_, volume, ino) = self.split_changed(ino)?;
        volume.removexattr(ino, name)
    }

    /// Allocates; `mode` as fallocate(2): 0 or `FALLOC_FL_KEEP_SIZE`.
    ///
    /// # Errors
    /// Growth; [`FsError::NotSupported`] for other modes.
    pub fn fallocate(
        &self,
        _ino: Ino,
        fh: Fh,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<(), FsError> {
        self.with_handle(fh, |volume, handle, file| {
            if !handle.writes {
                return Err(FsError::BadHandle);
            }
            volume.allocate(file, offset, len, mode)
        })
    }

    /// `whence` is `SEEK_DATA` (3) or `SEEK_HOLE` (4).
    ///
    /// # Errors
    /// [`FsError::NoData`] behind the end.
    pub fn lseek(&self, _ino: Ino, fh: Fh, offset: u64, whence: i32) -> Result<u64, FsError> {
        if whence != 3 && whence != 4 {
            return Err(FsError::Invalid);
        }
        self.with_handle(fh, |volume, _, file| volume.seek(file, offset, whence == 4))
    }

    /// Makes everything that was acknowledged durable on this machine.
    ///
    /// # Errors
    /// A local disk failed.
    pub fn sync(&self) -> Result<(), FsError> {
        self.volumes()
            .into_iter()
            .try_for_each(|(_, _, volume)| volume.sync())
    }

    #[allow(clippy::too_many_arguments)]
    fn make(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        kind: Kind,
        mode: u16,
        rdev: u32,
        target: &[u8],
    ) -> Result<Attr, FsError> {
        let new = NewInode {
            kind,
            mode,
            rdev,
            target,
        };
        self.on_inner(parent, |volume, dir| volume.create(caller, dir, name, &new))
    }

    fn root_attr(&self) -> Attr {
        let tokens = self
            .volumes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        Attr {
            ino: Ino::ROOT,
            kind: Kind::Directory,
            size: 4096,
            blocks: 0,
            mode: 0o555,
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

    fn read_root(
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

    fn opened(&self, slot: u16, volume: Arc<Volume>, file: FileRef, flags: i32) -> Opened {
        let fh = self.new_fh();
        let handle = Handle {
            slot,
            volume,
            file: Some(file),
            append: flags & O_APPEND != 0,
            writes: flags & O_ACCMODE != 0,
        };
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        handles.insert(fh, Arc::new(handle));
        Opened {
            fh,
            keep_cache: true,
        }
    }

    fn new_fh(&self) -> Fh {
        Fh(self.next_fh.fetch_add(1, Ordering::Relaxed))
    }

    fn with_handle<T>(
        &self,
        fh: Fh,
        call: impl FnOnce(&Volume, &Handle, &File) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let handle = {
            let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(handles.get(&fh).ok_or(FsError::BadHandle)?)
        };
        let file = handle.file.as_ref().ok_or(FsError::BadHandle)?;
        call(&handle.volume, &handle, file).map_err(|error| outer_error(handle.slot, error))
    }

    /// Runs `call` on the volume of `ino`, and numbers the answer as the mount does.
    fn on(
        &self,
        ino: Ino,
        call: impl FnOnce(&Volume, Ino) -> Result<Attr, FsError>,
    ) -> Result<Attr, FsError> {
        let (slot, volume, ino) = self.split(ino)?;
        match call(&volume, ino) {
            Ok(attr) => Ok(outer_attr(slot, attr)),
            Err(error) => Err(outer_error(slot, error)),
        }
    }

    /// As [`Drive::on`], for a change: the mount root takes none.
    fn on_inner(
        &self,
        ino: Ino,
        call: impl FnOnce(&Volume, Ino) -> Result<Attr, FsError>,
    ) -> Result<Attr, FsError> {
        if ino == Ino::ROOT {
            return Err(FsError::NotPermitted);
        }
        self.on(ino, call)
    }

    fn split(&self, ino: Ino) -> Result<(u16, Arc<Volume>, Ino), FsError> {
        let slot = u16::try_from(ino.0 >> INO_BITS).map_err(|_| FsError::NotFound)?;
        let volume = self.volume(slot).ok_or(FsError::NotFound)?;
        Ok((slot, volume, Ino(ino.0 & Ino::MAX.0)))
    }

    fn split_changed(&self, ino: Ino) -> Result<(u16, Arc<Volume>, Ino), FsError> {
        if ino == Ino::ROOT {
            return Err(FsError::NotPermitted);
        }
        self.split(ino)
    }
}

fn outer_ino(slot: u16, ino: Ino) -> Ino {
    Ino(u64::from(slot) << INO_BITS | ino.0)
}

fn outer_attr(slot: u16, attr: Attr) -> Attr {
    Attr {
        ino: outer_ino(slot, attr.ino),
        ..attr
    }
}

fn outer_error(slot: u16, error: FsError) -> FsError {
    match error {
        FsError::NotLocal(Want::Directory { dir, .. }) => {
            FsError::NotLocal(Want::Directory { slot, dir })
        }
        other => other,
    }
}
