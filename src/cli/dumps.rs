//! Keeps what is in memory, such as a wallet's key, out of core dumps and from other processes of the same user.
//!
//! A bound on the size of a core dump does not hold where the kernel pipes dumps into a program (systemd-coredump,
//! apport), so the process is made one of which there are none. For that, `ptrace(2)` and its like are refused
//! to everybody but root, and its files in `/proc` are root's. It does not outlast an `exec`: each
//! process of ours begins with it.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// From now on there is no core dump of this process.
///
/// # Errors
/// Something around the process, such as a filter of system calls, does not let it be so.
pub(super) fn forbid() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Nor of the programs that it starts.
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    Ok(setrlimit(Resource::Core, none)?)
}
