//! The table in redb, below the overlay.
//!
//! Each value carries a sum of its key and itself, so that a byte that changed on the disk is an error
//! and never taken for a record:
//!
//! ```text
//! offset  bytes  field
//! 0       8      XXH64 (seed 0) of key ‖ record, big-endian
//! 8       n      the record
//! ```

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::ops::Bound;

use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};
use twox_hash::XxHash64;

use super::JournalError;
use super::check::guard;
use super::key::{self, Key};

pub(super) const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

pub(super) type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

pub(super) type Range = (Bound<Key>, Bound<Key>);

pub(super) fn bounds(prefix: &[u8], after: Option<&[u8]>) -> Range {
    (
        after.map_or_else(
            || Bound::Included(prefix.to_vec()),
            |after| Bound::Excluded(after.to_vec()),
        ),
        key::end_of(prefix).map_or(Bound::Unbounded, Bound::Excluded),
    )
}

pub(super) fn as_slices(range: &Range) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (
        range.0.as_ref().map(Vec::as_slice),
        range.1.as_ref().map(Vec::as_slice),
    )
}

/// Writes `records` as one transaction, durable on return; with `restful` so that opening the file after it
/// needs no walk through all of it, which costs the map of its pages. In two phases: a transaction that has begun
/// to count is whole, and one that is not whole was damaged ([`super::check`]).
pub(super) fn write(
    db: &Database,
    records: &BTreeMap<Key, Option<Bytes>>,
    restful: bool,
) -> Result<(), JournalError> {
    let mut transaction = db.begin_write().map_err(disk)?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(restful);
    {
        let mut table = transaction.open_table(TABLE).map_err(disk)?;
        for (key, value) in records {
            match value {
                Some(value) => table
                    .insert(key.as_slice(), summed(key, value).as_slice())
                    .map(drop),
                None => table.remove(key.as_slice()).map(drop),
            }
            .map_err(disk)?;
        }
    }
    transaction.commit().map_err(disk)
}

pub(super) fn reader(db: &Database) -> Result<Table, JournalError> {
    db.begin_read()
        .map_err(disk)?
        .open_table(TABLE)
        .map_err(disk)
}

pub(super) fn read(table: &Table, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
    guard(|| {
        table
            .get(key)
            .map_err(disk)?
            .map(|value| Ok(Bytes::copy_from_slice(opened(key, value.value())?)))
            .transpose()
    })
}

/// The records of `range`, in order of keys.
pub(super) fn records(
    table: &Table,
    range: &Range,
) -> Result<impl Iterator<Item = Result<(Key, Bytes), JournalError>> + use<>, JournalError> {
    let found = table.range::<&[u8]>(as_slices(range)).map_err(disk)?;
    Ok(found.map(|pair| {
        let (key, value) = pair.map_err(disk)?;
        let record = opened(key.value(), value.value())?;
        Ok((key.value().to_vec(), Bytes::copy_from_slice(record)))
    }))
}

/// Length of the sum in front of a record, in bytes.
const SUM: usize = 8;

fn sum(key: &[u8], record: &[u8]) -> [u8; SUM] {
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(key);
    hasher.write(record);
    hasher.finish().to_be_bytes()
}

/// A record as it lies in the table.
fn summed(key: &[u8], record: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(SUM + record.len());
    value.extend_from_slice(&sum(key, record));
    value.extend_from_slice(record);
    value
}

/// The record in a value of the table.
pub(super) fn opened<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], JournalError> {
    match value.split_first_chunk() {
        Some((found, record)) if *found == sum(key, record) => Ok(record),
        _ => Err(JournalError::Corrupt(format!(
            "the record at {} was changed on the disk",
            key.escape_ascii()
        ))),
    }
}

pub(super) fn disk(error: impl Into<redb::Error>) -> JournalError {
    match error.into() {
        redb::Error::Io(io) => io.into(),
        redb::Error::Corrupted(what) => JournalError::Corrupt(what),
        other => JournalError::Disk(other.to_string()),
    }
}

pub(super) type Layered = Result<(Key, Option<Bytes>), JournalError>;

/// Both in order of keys; where they have the same key, `upper` wins.
pub(super) fn merge(
    upper: impl Iterator<Item = Layered>,
    lower: impl Iterator<Item = Layered>,
) -> impl Iterator<Item = Layered> {
    let (mut upper, mut lower) = (upper.peekable(), lower.peekable());
    std::iter::from_fn(move || match (upper.peek(), lower.peek()) {
        (Some(Ok((over, _))), Some(Ok((under, _)))) => match over.cmp(under) {
            std::cmp::Ordering::Greater => lower.next(),
            std::cmp::Ordering::Less => upper.next(),
            std::cmp::Ordering::Equal => {
                lower.next();
                upper.next()
            }
        },
        (_, Some(Err(_))) | (None, _) => lower.next(),
        (Some(_), _) => upper.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_believed_only_as_it_was_written_and_where() {
        let value = summed(b"key", b"record");
        assert_eq!(opened(b"key", &value), Ok(&b"record"[..]));
        assert!(opened(b"kez", &value).is_err());
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 0x10;
            assert!(opened(b"key", &changed).is_err(), "byte {at}");
        }
        assert!(opened(b"key", &value[..7]).is_err());
    }

    #[test]
    fn the_sum_is_the_one_that_is_documented() {
        // XXH64 of nothing, seed 0 (the reference implementation's own vector).
        assert_eq!(summed(b"", b""), 0xef46_db37_51d8_e999_u64.to_be_bytes());
    }
}
