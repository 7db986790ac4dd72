//! Stores through a shared mapping. They are made by the kernel, which copies there what it reads: where a page
//! cannot be had, since the drive is gone, that is an error then, and no signal.
#![expect(
    unsafe_code,
    reason = "no safe call maps a file, or reads into what is mapped"
)]

use std::fs::File as OsFile;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::ptr;

use rustix::fs::{MemfdFlags, memfd_create};

const PAGE: u64 = 4096;

/// Stores `bytes` at `offset` of `file`, which is open for both and longer than that; with `flush` the kernel has
/// written the pages back when it returns.
pub(super) fn store(file: &OsFile, offset: u64, bytes: &[u8], flush: bool) -> io::Result<()> {
    let mut source = OsFile::from(memfd_create("source", MemfdFlags::CLOEXEC)?);
    source.write_all(bytes)?;
    let begin = offset / PAGE * PAGE;
    let skip = usize::try_from(offset - begin).map_err(io::Error::other)?;
    let (len, at) = (skip + bytes.len(), begin.cast_signed());
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            access,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            at,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut done = 0;
    let mut result = Ok(());
    while done < bytes.len() && result.is_ok() {
        // SAFETY: from there on the mapping has as many bytes as are asked for, and nobody else knows it.
        let read = unsafe {
            let place = mapped.cast::<u8>().add(skip + done);
            let left = bytes.len() - done;
            libc::pread(source.as_raw_fd(), place.cast(), left, done as i64)
        };
        match usize::try_from(read) {
            Ok(0) => result = Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(_) => result = Err(io::Error::last_os_error()),
        }
    }
    if flush && result.is_ok() {
        // SAFETY: the mapping from above.
        let flushed = unsafe { libc::msync(mapped, len, libc::MS_SYNC) };
        if flushed != 0 {
            result = Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the mapping from above, which nobody knows any more.
    unsafe { libc::munmap(mapped, len) };
    result
}
