//! The calls on open files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handles::{Handle, O_ACCMODE};
use super::{Drive, outer_error};
use crate::fs::files::{File, FileRef};
use crate::fs::io::Terms;
use crate::fs::volume::Volume;
use crate::fs::{Attr, Caller, FsError, Kind, Opened};
use crate::types::{Fh, Ino};

/// The flag of open(2) that empties the file.
const O_TRUNC: i32 = 0o1000;

impl Drive {
    /// Opens a regular file; `flags` as open(2). `O_TRUNC` is applied here.
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for writing where nothing may be changed.
    pub fn open(&self, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        let (slot, volume, ino) = self.split(ino)?;
        if flags & O_ACCMODE != 0 || flags & O_TRUNC != 0 {
            volume.quota().check_change()?;
        }
        let file = volume.hold(ino).map_err(|e| volume.or_stale(ino, e))?;
        if flags & O_TRUNC != 0
            && let Err(error) = volume.resize(&file, 0)
        {
            volume.leave(file);
            return Err(error);
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
        self.with_handle(fh, |volume, handle, file| {
            let bytes = volume.read(file, offset, len)?;
            if handle.notes_access && self.access_times.load(Ordering::Relaxed) {
                volume.note_read(file);
            }
            Ok(bytes)
        })
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
        let written = self.write_on(fh, offset, data, kill_set_id, Terms::default())?;
        Ok(written.unwrap_or(0))
    }

    /// As [`Drive::write`], on `terms`; `None` where these forbid it: nothing was done then.
    ///
    /// # Errors
    /// As [`Drive::write`].
    pub fn write_on(
        &self,
        fh: Fh,
        offset: u64,
        data: &[u8],
        kill_set_id: bool,
        terms: Terms,
    ) -> Result<Option<u32>, FsError> {
        self.with_handle(fh, |volume, handle, file| {
            if !handle.writes {
                return Err(FsError::BadHandle);
            }
            let written = volume.write(file, offset, data, terms)?;
            if kill_set_id && written.is_some() {
                volume.kill_set_id(file.ino)?;
            }
            Ok(written)
        })
    }

    /// How often the bytes of an open file were read, for [`Terms`]: who read them before has been counted.
    ///
    /// # Errors
    /// There is no such handle.
    pub fn reads(&self, fh: Fh) -> Result<u64, FsError> {
        self.with_handle(fh, |_, _, file| Ok(file.reads.load(Ordering::SeqCst)))
    }

    /// As [`Drive::write`] for pages that the kernel writes back from a shared mapping: where they lie
    /// is the kernel's word also for a descriptor that appends, and they are never refused for quota.
    ///
    /// # Errors
    /// Local errors; the volume takes no change at all.
    pub fn write_mapped(
        &self,
        _ino: Ino,
        fh: Fh,
        offset: u64,
        data: &[u8],
    ) -> Result<u32, FsError> {
        self.with_handle(fh, |volume, handle, file| {
            if !handle.writes {
                return Err(FsError::BadHandle);
            }
            volume.write_mapped(file, offset, data)
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
            // Small content goes into the journal's memory now, to be kept with the next batch. Not
            // that of a file which is being written anew: this may be the shell's descriptor, or
            // that of a child which another thread has just started.
            let small = handle.writes && file.body().inline.is_some();
            if small && !volume.was_just_emptied(file.ino) {
                volume.save(file)?;
            }
            if handle.writes {
                volume.check_late(file.ino)?;
            }
            Ok(())
        })
    }

    /// The last descriptor of the handle is gone.
    pub fn release(&self, _ino: Ino, fh: Fh) {
        // A call that still runs on it lets go of it when it ends.
        self.handles.remove(fh);
    }

    /// Allocates, zeroes or punches; `mode` as fallocate(2): 0, `FALLOC_FL_ZERO_RANGE`, each also with
    /// `FALLOC_FL_KEEP_SIZE`, or `FALLOC_FL_PUNCH_HOLE` with it.
    ///
    /// # Errors
    /// Growth, but for punching; [`FsError::NotSupported`] for other modes.
    #[allow(clippy::too_many_arguments)]
    pub fn fallocate(
        &self,
        _ino: Ino,
        fh: Fh,
        offset: u64,
        len: u64,
        mode: i32,
        kill_set_id: bool,
    ) -> Result<(), FsError> {
        self.with_handle(fh, |volume, handle, file| {
            if !handle.writes {
                return Err(FsError::BadHandle);
            }
            volume.fallocate(file, offset, len, mode)?;
            if kill_set_id {
                volume.kill_set_id(file.ino)?;
            }
            Ok(())
        })
    }

    /// Copies up to `len` bytes from one open file at an offset to another; how many.
    ///
    /// # Errors
    /// Growth; [`FsError::NotSupported`] between tokens, and for what is not on this machine: then it is
    /// to be copied by reading and writing.
    pub fn copy_file_range(
        &self,
        from: (Fh, u64),
        to: (Fh, u64),
        len: u64,
        kill_set_id: bool,
    ) -> Result<u32, FsError> {
        let source = self.handles.get(from.0)?;
        let read = source.file.as_ref().ok_or(FsError::BadHandle)?;
        self.with_handle(to.0, |volume, handle, file| {
            if !handle.writes {
                return Err(FsError::BadHandle);
            }
            if source.slot != handle.slot {
                return Err(FsError::NotSupported);
            }
            let copied = volume.copy(read, from.1, file, to.1, len)?;
            if kill_set_id {
                volume.kill_set_id(file.ino)?;
            }
            Ok(copied)
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

    fn opened(&self, slot: u16, volume: Arc<Volume>, file: FileRef, flags: i32) -> Opened {
        let writes = flags & O_ACCMODE != 0;
        let fh = self.handles.insert(Handle::new(slot, volume, file, flags));
        Opened { fh, writes }
    }

    fn with_handle<T>(
        &self,
        fh: Fh,
        call: impl FnOnce(&Volume, &Handle, &File) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let handle = self.handles.get(fh)?;
        let file = handle.file.as_ref().ok_or(FsError::BadHandle)?;
        call(&handle.volume, &handle, file).map_err(|error| outer_error(handle.slot, error))
    }
}
