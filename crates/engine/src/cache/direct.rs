//! Writing past the kernel's cache: what is filled is read from memory first, and the kernel keeps it once
//! more above the drive, so that a third copy would only cost the time to make it.
//!
//! Invariant: what is answered as written is what was given, or nothing was written that counts. Called by
//! [`super::files`].

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use pxfs_base::lock;
use rustix::fs::OFlags;

use super::CHUNK_BYTES;

/// What every disk takes as the border of a range, and of the memory that it is written from.
const BORDER: usize = 4096;
/// Buffers that are kept.
const BUFFERS: usize = 4;

/// Memory that lies as the disk wants it, for use again.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// Writes `bytes` at `offset` of the file at `path`, if that is the file that `is_it` takes it for.
    /// False where this file system, or this range, cannot be written so, or the disk fails.
    pub(super) fn write(
        &self,
        path: &Path,
        is_it: impl FnOnce(&File) -> bool,
        offset: u64,
        bytes: &[u8],
    ) -> bool {
        if !bytes.len().is_multiple_of(BORDER) || bytes.len() as u64 > CHUNK_BYTES {
            return false;
        }
        let mut how = OpenOptions::new();
        how.write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed());
        let Ok(file) = how.open(path) else {
            return false;
        };
        if !is_it(&file) {
            return false;
        }
        if bytes.as_ptr().align_offset(BORDER) == 0 {
            return file.write_all_at(bytes, offset).is_ok();
        }
        let mut buffer = self.take();
        let start = buffer.as_ptr().align_offset(BORDER);
        let written = buffer
            .get_mut(start..start.saturating_add(bytes.len()))
            .is_some_and(|lies_right| {
                lies_right.copy_from_slice(bytes);
                file.write_all_at(lies_right, offset).is_ok()
            });
        self.give_back(buffer);
        written
    }

    fn take(&self) -> Vec<u8> {
        let kept = self.lock().pop();
        // A border of it lies within the first part, wherever it begins.
        kept.unwrap_or_else(|| vec![0; CHUNK_BYTES as usize + BORDER])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = self.lock();
        if kept.len() < BUFFERS {
            kept.push(buffer);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_writes_store_the_right_bytes_at_any_memory_alignment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let memory: Vec<u8> = (0..4 * BORDER as u32).map(|at| (at / 7) as u8).collect();
        let border = memory.as_ptr().align_offset(BORDER);
        let buffers = Buffers::default();
        for from in [border, border + 1] {
            let bytes = &memory[from..from + 2 * BORDER];
            File::create(&path).unwrap();
            // Not every file system can be written so.
            if buffers.write(&path, |_| true, BORDER as u64, bytes) {
                assert!(std::fs::read(&path).unwrap()[BORDER..] == *bytes);
            }
        }
    }
}
