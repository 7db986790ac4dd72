//! Reading many records of the journal with few in memory.

use bytes::Bytes;

use crate::journal::{Journal, JournalError, key};

/// Calls `each` with every key below `prefix` and its value, in order; at most `page` of them are in memory.
pub(super) fn each_page(
    journal: &Journal,
    prefix: &[u8],
    page: usize,
    mut each: impl FnMut(&[u8], Bytes) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let mut after: Option<key::Key> = None;
    loop {
        let some = journal.scan(prefix, after.as_deref(), page)?;
        if some.is_empty() {
            return Ok(());
        }
        for (found, value) in some {
            each(&found, value)?;
            after = Some(found);
        }
    }
}
