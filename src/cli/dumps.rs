//! Keeps memory, such as a wallet's key, out of core dumps and from the user's other processes.
//!
//! A core size limit fails if the kernel pipes dumps to a program (systemd-coredump, apport), so
//! the process is made undumpable. Then only root may `ptrace(2)` it, and owns its files in
//! `/proc`. An `exec` resets this: each of our processes starts with it.

use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Disables core dumps of this process.
///
/// # Errors
/// Something around it, such as a seccomp filter, forbids it.
pub(super) fn forbid() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Nor of its children.
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    Ok(setrlimit(Resource::Core, none)?)
}
