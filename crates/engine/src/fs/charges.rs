//! Commits whose charge is not known to be final, as publishing and billing call for them: durable on return.

use std::collections::BTreeMap;

use super::FsError;
use super::notes::{Notes, Values};
use super::volume::Volume;
use crate::types::Ino;

impl Volume {
    /// Commits whose charge is not final, in order: sequence and bytes.
    #[must_use]
    pub fn charges(&self) -> Vec<(u64, u64)> {
        self.quota.charges()
    }

    /// Stores `values`, and with them that the commit `charge` (sequence, bytes) is to be charged, if there is one. The
    /// commit ends with this.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn keep_charged(&self, values: Values, charge: Option<(u64, u64)>) -> Result<(), FsError> {
        self.change_charged(|_| Ok((charge, values)))
    }

    /// As [`Volume::keep_charged`], of the charge and the values that `change` makes of what it reads, before any other
    /// small value is written.
    ///
    /// # Errors
    /// The journal cannot be written; those of `change`.
    pub fn change_charged<E: From<FsError>>(
        &self,
        change: impl FnOnce(&Notes) -> Result<(Option<(u64, u64)>, Values), E>,
    ) -> Result<(), E> {
        let is_new = self.quota.add_charge(change)?;
        self.keep(Vec::new())?;
        if is_new {
            self.tell_charge();
        }
        Ok(())
    }

    /// Takes over charges (sequence, bytes) that an earlier folder of the volume has left.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn owe(&self, owed: &[(u64, u64)]) -> Result<(), FsError> {
        self.quota.take_charges(owed)?;
        self.keep(Vec::new())
    }

    /// Removes all charges: the folder that takes this one's place has them.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn disown_charges(&self) -> Result<(), FsError> {
        self.quota.drop_charges()?;
        self.keep(Vec::new())
    }

    /// Reserves for the next commit what is unpublished of these files: the one that ends has not sent it, or the next
    /// sends it again.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn reserve_again(&self, files: impl IntoIterator<Item = Ino>) -> Result<(), FsError> {
        let mut files = files.into_iter();
        Ok(files.try_for_each(|ino| self.quota.reserve_file(ino))?)
    }

    /// As [`Volume::reserve_again`], for all that is unpublished.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn reserve_unpublished(&self) -> Result<(), FsError> {
        Ok(self.quota.reserve_unpublished()?)
    }

    /// The charges `done` are final in these blocks, by sequence; the others are in the blocks `mined`, or in none. Gives
    /// the commits that are charged for good.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn settle_charges(
        &self,
        done: &[(u64, u64)],
        mined: BTreeMap<u64, u64>,
    ) -> Result<Vec<u64>, FsError> {
        let over = self.quota.settle_charges(done, mined)?;
        if !over.is_empty() {
            self.keep(Vec::new())?;
        }
        Ok(over)
    }
}
