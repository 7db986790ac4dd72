//! What publishing and billing store in the journal beside the tree: small values by name, receipts of the node, and the
//! blocks that commits have built.
//!
//! Invariant: notes are no part of the tree, and become durable with whatever is made durable next. What they mean is up
//! to those who write them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use pxfs_base::lock;

use super::FsError;
use super::pages::each_page;
use crate::journal::record::Record;
use crate::journal::{Batch, Journal, key};

/// The value that names the node whose receipts these are.
const RECEIPTS_OF: &str = "receipts-of";
/// The value that is set from the first write to another node until that node is seen to hold what was published.
pub const UNHELD: &str = "unheld";
/// Notes that are read at a time.
const PAGE: usize = 256;

/// The notes of one volume; a handle.
#[derive(Clone)]
pub struct Notes {
    journal: Arc<Journal>,
    /// Held by each write of small values (but for those that the quota alone changes), so that none comes between what
    /// a change reads and what it writes.
    writing: Arc<Mutex<()>>,
}

/// Small values by name; `None` removes one.
pub type Values = Vec<(&'static str, Option<Bytes>)>;

impl Notes {
    pub(super) fn of(journal: &Arc<Journal>) -> Self {
        Self {
            journal: Arc::clone(journal),
            writing: Arc::default(),
        }
    }

    /// A small value.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn value<R: Record>(&self, name: &str) -> Result<Option<R>, FsError> {
        Ok(self.journal.record(&key::meta(name))?)
    }

    /// A small value as its bytes.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn bytes(&self, name: &str) -> Result<Option<Bytes>, FsError> {
        Ok(self.journal.get(&key::meta(name))?)
    }

    /// The right to write small values, which one at a time has. Taken before the locks of [`Memory`]: who has it may read
    /// pages of the journal.
    ///
    /// [`Memory`]: super::locks::Memory
    pub(super) fn writing(&self) -> Writing<'_> {
        Writing {
            journal: &self.journal,
            _one: lock(&self.writing),
        }
    }

    /// Stores small values, all or none; `None` removes one.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn store(&self, values: Vec<(&str, Option<Bytes>)>) -> Result<(), FsError> {
        self.writing().store(values)
    }

    /// Stores the values that `change` makes of what it reads, before any other small value is written. `change` itself
    /// stores nothing.
    ///
    /// # Errors
    /// The journal cannot be written; those of `change`.
    pub fn change<T, E: From<FsError>>(
        &self,
        change: impl FnOnce(&Self) -> Result<(T, Values), E>,
    ) -> Result<T, E> {
        let writing = self.writing();
        let (changed, values) = change(self)?;
        writing.store(values)?;
        Ok(changed)
    }

    /// The receipts of the node called `node`, by rising number, and whether what was published is [`UNHELD`] there.
    /// Removes those of any other node.
    ///
    /// # Errors
    /// The journal fails.
    pub fn begin_receipts(&self, node: &str) -> Result<(Vec<(u64, Bytes)>, bool), FsError> {
        let mut notes: Vec<(u64, Bytes)> = Vec::new();
        each_page(&self.journal, &key::receipts(), PAGE, |found, note| {
            notes.extend(key::parse_receipt(found).map(|number| (number, note)));
            Ok(())
        })?;
        let of = key::meta(RECEIPTS_OF);
        let before = self.journal.get(&of)?;
        if before.as_ref().is_some_and(|of| of == node) {
            return Ok((notes, self.bytes(UNHELD)?.is_some()));
        }
        let mut batch = Batch::default();
        for (number, _) in notes {
            batch.remove(key::receipt(number));
        }
        batch.put_bytes(of, Bytes::copy_from_slice(node.as_bytes()));
        if before.is_some() {
            batch.put_bytes(key::meta(UNHELD), Bytes::from_static(b"1"));
        }
        self.journal.apply(batch)?;
        Ok((Vec::new(), before.is_some()))
    }

    /// Stores a receipt, and removes those numbered `removed`.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn store_receipt(
        &self,
        receipt: Option<(u64, Bytes)>,
        removed: Range<u64>,
    ) -> Result<(), FsError> {
        let mut batch = Batch::default();
        for number in removed {
            batch.remove(key::receipt(number));
        }
        if let Some((number, note)) = receipt {
            batch.put_bytes(key::receipt(number), note);
        }
        Ok(self.journal.apply(batch)?)
    }

    /// Notes of built blocks, each with the sequence of its commit.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn built(&self) -> Result<Vec<(u64, Bytes)>, FsError> {
        let mut notes = Vec::new();
        self.each_built(|(sequence, _), note| notes.push((sequence, note)))?;
        Ok(notes)
    }

    /// Stores note `number` of the commit `sequence`.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn store_built(&self, sequence: u64, number: u64, note: Bytes) -> Result<(), FsError> {
        let mut batch = Batch::default();
        batch.put_bytes(key::built(sequence, number), note);
        Ok(self.journal.apply(batch)?)
    }

    /// Removes the notes of commits whose sequence is `chosen`.
    ///
    /// # Errors
    /// The journal fails.
    pub fn remove_built(&self, chosen: impl Fn(u64) -> bool) -> Result<(), FsError> {
        let mut batch = Batch::default();
        let mut any = false;
        self.each_built(|(sequence, number), _| {
            if chosen(sequence) {
                batch.remove(key::built(sequence, number));
                any = true;
            }
        })?;
        match any {
            true => Ok(self.journal.apply(batch)?),
            false => Ok(()),
        }
    }

    fn each_built(&self, mut take: impl FnMut((u64, u64), Bytes)) -> Result<(), FsError> {
        Ok(each_page(
            &self.journal,
            &key::all_built(),
            PAGE,
            |found, note| {
                if let Some(place) = key::parse_built(found) {
                    take(place, note);
                }
                Ok(())
            },
        )?)
    }
}

/// See [`Notes::writing`].
pub(super) struct Writing<'a> {
    journal: &'a Journal,
    _one: MutexGuard<'a, ()>,
}

impl Writing<'_> {
    /// As [`Notes::store`].
    pub(super) fn store(&self, values: Vec<(&str, Option<Bytes>)>) -> Result<(), FsError> {
        let mut batch = Batch::default();
        put_values(&mut batch, values);
        Ok(self.journal.apply(batch)?)
    }
}

/// Adds small values to a batch; `None` removes one.
pub(super) fn put_values(batch: &mut Batch, values: Vec<(&str, Option<Bytes>)>) {
    for (name, value) in values {
        match value {
            Some(bytes) => batch.put_bytes(key::meta(name), bytes),
            None => batch.remove(key::meta(name)),
        }
    }
}
