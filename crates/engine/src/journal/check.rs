//! Opening a journal that is there: whether it can be believed is asked before anything is taken from it.
//!
//! Invariant: nothing is used that was not compared with a sum. Where there is a mark of the file as it is
//! ([`super::sums`]) that is done as blocks are read; else the whole file is compared at once with the
//! sums that redb keeps of its pages. Until it is believed the file is only read. redb mends what it
//! finds wrong by going back to an older state, which would lose acknowledged changes in silence: that is told
//! instead, and the file is left as it is. Called by
//! [`super::Journal`].

use std::cell::Cell;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use redb::Database;

use super::file::{Backend, JournalFile, Place};
use super::{DiskFile, JournalError};

/// Opens the journal in `file`, with `cache_bytes` of memory.
///
/// # Errors
/// [`JournalError::Corrupt`]; the file cannot be read or written.
pub(super) fn open(
    file: &Arc<dyn DiskFile>,
    place: &Place,
    cache_bytes: usize,
) -> Result<(Database, Arc<JournalFile>), JournalError> {
    if let Some(marked) = JournalFile::found(Arc::clone(file), place.clone(), true)? {
        match open_marked(&marked, cache_bytes) {
            Ok(db) => {
                marked.accept()?;
                return Ok((db, marked));
            }
            Err(error) => tracing::debug!(%error, "the journal's mark is no help"),
        }
    }
    let called = place.called(&place.name);
    let found = JournalFile::found(Arc::clone(file), place.clone(), false)?;
    let found = found.ok_or_else(|| JournalError::Corrupt(called.clone()))?;
    let db = check(&found, cache_bytes).map_err(|error| match error {
        JournalError::Corrupt(what) => JournalError::Corrupt(format!("{called}: {what}")),
        other => other,
    })?;
    found.accept()?;
    Ok((db, found))
}

/// As it was closed, or left alone: not where redb would have to walk through all of it.
fn open_marked(file: &Arc<JournalFile>, cache_bytes: usize) -> Result<Database, JournalError> {
    guard(|| {
        Database::builder()
            .set_cache_size(cache_bytes)
            .set_repair_callback(|repair| repair.abort())
            .create_with_backend(Backend(Arc::clone(file)))
            .map_err(unopened)
    })
}

/// Reads all that the journal holds, and compares the sums of its pages.
fn check(file: &Arc<JournalFile>, cache_bytes: usize) -> Result<Database, JournalError> {
    let went_back = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&went_back);
    let open = || {
        guard(|| {
            Database::builder()
                .set_cache_size(cache_bytes)
                .set_check_integrity_on_open(true)
                .set_repair_callback(move |repair| {
                    // Between the first walk and the second lies going back to the commit before.
                    let going_back = (0.2..0.5).contains(&repair.progress());
                    told.fetch_or(going_back, Ordering::AcqRel);
                })
                .create_with_backend(Backend(Arc::clone(file)))
                .map_err(unopened)
        })
    };
    let db = if file.is_marked() {
        std::thread::scope(|scope| {
            scope.spawn(|| file.read_ahead());
            open()
        })?
    } else {
        open()?
    };
    // A commit counts when all of it is durable: no power cut explains one that is not whole.
    match went_back.load(Ordering::Acquire) {
        true => Err(JournalError::Corrupt(
            "its last commit was changed on the disk".to_owned(),
        )),
        false => Ok(db),
    }
}

/// What redb says of a file that it does not open: damage, but for what the disk said of itself.
pub(super) fn unopened(error: redb::DatabaseError) -> JournalError {
    match redb::Error::from(error) {
        redb::Error::Io(io) if io.kind() != ErrorKind::UnexpectedEof => io.into(),
        other => JournalError::Corrupt(other.to_string()),
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which reads what somebody may have damaged: redb panics at some of that.
///
/// # Errors
/// Those of `work`; [`JournalError::Corrupt`] with what the panic says.
pub(super) fn guard<T>(work: impl FnOnce() -> Result<T, JournalError>) -> Result<T, JournalError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    result.unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("not readable");
        let line = what.lines().next().unwrap_or(what);
        Err(JournalError::Corrupt(line.to_owned()))
    })
}
