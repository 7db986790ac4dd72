//! What is agreed with the kernel when a mount begins.

use fuser::{InitFlags, KernelConfig};

use super::caching::Caching;

/// The greatest write that the kernel sends at once; fuser's threads keep a buffer of it resident.
const WRITE_MAX: u32 = 1 << 20;

/// Reads of the kernel's own (read-ahead) that may wait at a time.
const BACKGROUND_MAX: u16 = 64;

/// Asks for what the drive needs; a kernel that has not got all of it is served all the same.
///
/// `acls`: the kernel is to compare ACLs, and so modes. `DONT_MASK`, since a default ACL goes before the umask.
/// `EXPORT_SUPPORT`: file handles hold longer than the kernel knows the inode.
///
/// Not asked for: `WRITEBACK_CACHE` (a write over
/// the quota would succeed), `ATOMIC_O_TRUNC` (`open` does not say whether set-id bits must go;
/// the truncation that the kernel sends instead does), `POSIX_LOCKS` and `FLOCK_LOCKS` (one
/// machine writes a token, so the kernel's own locks suffice), `AUTO_INVAL_DATA` (nothing
/// changes behind the kernel's back), `SETXATTR_EXT` (fuser takes its longer message for another one).
pub(super) fn agree(config: &mut KernelConfig, caching: &Caching, acls: bool) {
    let compared = acls.then_some(InitFlags::FUSE_POSIX_ACL);
    let always = [
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_ABORT_ERROR,
        InitFlags::FUSE_DONT_MASK,
        InitFlags::FUSE_EXPORT_SUPPORT,
    ];
    for flag in always.into_iter().chain(compared) {
        if config.add_capabilities(flag).is_err() {
            tracing::info!(?flag, "this kernel does without");
        }
    }
    if config
        .add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
        .is_ok()
    {
        caching.allow_direct();
    }
    // Both refuse only what is out of range, and these are not.
    let _ = config.set_max_write(WRITE_MAX);
    let _ = config.set_max_background(BACKGROUND_MAX);
}
