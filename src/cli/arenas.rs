//! Limits the allocator's arenas in the staying process.
//!
//! glibc gives each thread an arena, up to eight a core, and memory freed in one is useless to
//! others: a commit of many files on many threads leaves several times what it needs. glibc reads
//! its environment at the start, so if nothing is set there, the process executes itself again.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

const VARIABLE: &str = "MALLOC_ARENA_MAX";
const ARENAS: &str = "2";

/// Executes this process again with few arenas, keeping its id and arguments. Returns if it has
/// them, if the user chose otherwise, or on failure.
pub(super) fn bound() {
    let is_set = |name| std::env::var_os(name).is_some();
    if is_set(VARIABLE) || is_set("GLIBC_TUNABLES") {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_else(|| OsString::from("pxfs"));
    let error = Command::new(program)
        .arg0(called)
        .args(words)
        .env(VARIABLE, ARENAS)
        .exec();
    tracing::debug!(%error, "the allocator goes on with many arenas");
}
