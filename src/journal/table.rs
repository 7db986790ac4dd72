//! The table in redb, below the overlay.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::JournalError;
use super::key::{self, Key};
use super::record::{Counters, Record};

pub(super) const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

pub(super) type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The journal as it was at one moment.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) table: Arc<Table>,
}

impl Snapshot {
    /// The counters of its moment.
    pub(crate) fn counters(&self) -> Result<Counters, JournalError> {
        self.record(&key::meta("counters"))?
            .ok_or_else(|| JournalError::Corrupt("the journal has no counters".to_owned()))
    }

    /// The record at `key`, decoded.
    pub(crate) fn record<R: Record>(&self, key: &[u8]) -> Result<Option<R>, JournalError> {
        self.get(key)?
            .map(|bytes| R::from_bytes(&bytes))
            .transpose()
    }

    /// The record at `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, JournalError> {
        read(&self.table, key)
    }

    /// Calls `each` with the records whose keys begin with `prefix`, in order, until it answers
    /// false.
    pub(crate) fn each(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<bool, JournalError>,
    ) -> Result<(), JournalError> {
        let range = bounds(prefix, None);
        for pair in self.table.range::<&[u8]>(as_slices(&range)).map_err(disk)? {
            let (key, value) = pair.map_err(disk)?;
            if !each(key.value(), value.value())? {
                break;
            }
        }
        Ok(())
    }
}

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

pub(super) fn write(
    db: &Database,
    records: &BTreeMap<Key, Option<Bytes>>,
    durability: Durability,
) -> Result<(), JournalError> {
    let mut transaction = db.begin_write().map_err(disk)?;
    transaction.set_durability(durability).map_err(disk)?;
    {
        let mut table = transaction.open_table(TABLE).map_err(disk)?;
        for (key, value) in records {
            match value {
                Some(value) => table.insert(key.as_slice(), value.as_ref()).map(drop),
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
    Ok(table
        .get(key)
        .map_err(disk)?
        .map(|value| Bytes::copy_from_slice(value.value())))
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
