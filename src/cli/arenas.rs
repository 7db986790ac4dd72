//! How many arenas the C library's allocator has in the process that stays.
//!
//! glibc gives each thread an arena of its own, up to eight a core, and what is freed in one is of use to
//! none of the others: a commit of many files, whose parts run on many threads, leaves several times
//! what it needs. It is told by its environment, so before the process begins: where nothing is set
//! there, the process begins once more.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

const VARIABLE: &str = "MALLOC_ARENA_MAX";
const ARENAS: &str = "2";

/// Begins this process once more, with its number, its arguments and few arenas. Comes back where it has
/// them, where somebody has chosen otherwise, or where it cannot be.
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
