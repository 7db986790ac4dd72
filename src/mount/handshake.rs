//! Negotiates features with the kernel when a mount begins.

use fuser::{InitFlags, KernelConfig};

use super::caching::Caching;

/// The largest write of the kernel; fuser's threads keep a buffer of this size resident.
const WRITE_MAX: u32 = 1 << 20;

/// The kernel's read-ahead requests in flight.
const BACKGROUND_MAX: u16 = 64;

/// Asks for what the drive needs; a kernel that lacks some of it is served all the same.
///
/// `acls`: the kernel compares ACLs and modes. `DONT_MASK`, because a default ACL overrides the
/// umask. `EXPORT_SUPPORT`: file handles outlive the kernel's inodes.
///
/// Not asked for: `WRITEBACK_CACHE` (a write over the quota would succeed), `ATOMIC_O_TRUNC`
/// (`open` does not say whether set-id bits must go; the kernel's separate truncation does),
/// `POSIX_LOCKS` and `FLOCK_LOCKS` (one machine writes a token, so the kernel's locks suffice),
/// `AUTO_INVAL_DATA` (nothing changes behind the kernel), `SETXATTR_EXT` (fuser misreads its longer
/// message).
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
    let _ = config.set_max_write(WRITE_MAX);
    let _ = config.set_max_background(BACKGROUND_MAX);
}
