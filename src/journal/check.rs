//! Whether a journal file can be believed: asked once, before it is used.
//!
//! Invariant: the file itself is only read. redb mends what it finds wrong by going back to an older
//! state, which would lose acknowledged changes in silence; so it looks at a draft, whose changes stay
//! in memory, and a file that needed mending is told and left as it is. Called by [`super::Journal`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use redb::{Database, StorageBackend};

use super::{DiskFile, JournalError};

/// Unit in which a draft keeps what was changed, in bytes.
const PAGE: u64 = 4096;

/// Reads all of the journal in `file`, called `name`, and compares the sums of its pages, with
/// `cache_bytes` of memory.
///
/// # Errors
/// [`JournalError::Corrupt`]; the file cannot be read.
pub(super) fn check(
    file: Arc<dyn DiskFile>,
    name: &str,
    cache_bytes: usize,
) -> Result<(), JournalError> {
    let len = file.len()?;
    let draft = Draft {
        file,
        state: Mutex::new(Changed {
            kept: len,
            len,
            pages: BTreeMap::new(),
        }),
    };
    let corrupt = |what: String| JournalError::Corrupt(format!("{name}: {what}"));
    let well = guard(|| {
        Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(draft)
            .and_then(|mut db| db.check_integrity())
            .map_err(|error| corrupt(error.to_string()))
    })?;
    match well {
        true => Ok(()),
        false => Err(corrupt("the sums of its pages are wrong".to_owned())),
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

/// A file that is read from the disk and changed in memory.
#[derive(Debug)]
struct Draft {
    file: Arc<dyn DiskFile>,
    state: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    /// So many bytes of the file still count.
    kept: u64,
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Draft {
    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page `index` as the file has it.
    fn original(&self, index: u64, kept: u64) -> io::Result<Vec<u8>> {
        let mut page = vec![0; PAGE as usize];
        let there = kept.saturating_sub(index * PAGE).min(PAGE) as usize;
        if let Some(part) = page.get_mut(..there) {
            self.file.read_at(part, index * PAGE)?;
        }
        Ok(page)
    }
}

/// The pages that `len` bytes at `offset` lie in, each with the part of the page and of the bytes.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let end = offset + len as u64;
    (offset / PAGE..end.div_ceil(PAGE)).map(move |index| {
        let start = index * PAGE;
        let (from, to) = (offset.max(start), end.min(start + PAGE));
        let within = (from - start) as usize..(to - start) as usize;
        (
            index,
            within,
            (from - offset) as usize..(to - offset) as usize,
        )
    })
}

fn copy(to: Option<&mut [u8]>, from: Option<&[u8]>) -> io::Result<()> {
    match (to, from) {
        (Some(to), Some(from)) if to.len() == from.len() => {
            to.copy_from_slice(from);
            Ok(())
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

impl StorageBackend for Draft {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        if offset + out.len() as u64 > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (index, within, part) in parts(offset, out.len()) {
            match state.pages.get(&index) {
                Some(page) => copy(out.get_mut(part), page.get(within))?,
                None => {
                    let page = self.original(index, state.kept)?;
                    copy(out.get_mut(part), page.get(within))?;
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.len = len;
        state.kept = state.kept.min(len);
        state.pages.split_off(&len.div_ceil(PAGE));
        let last = len / PAGE;
        if let Some(part) = state
            .pages
            .get_mut(&last)
            .and_then(|page| page.get_mut((len - last * PAGE) as usize..))
        {
            part.fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        for (index, within, part) in parts(offset, data.len()) {
            if !state.pages.contains_key(&index) {
                let page = self.original(index, state.kept)?;
                state.pages.insert(index, page);
            }
            let page = state.pages.get_mut(&index);
            copy(page.and_then(|page| page.get_mut(within)), data.get(part))?;
        }
        Ok(())
    }
}
