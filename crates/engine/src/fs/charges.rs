//! Commits whose charge is not known to be final: what a volume of an additive contract keeps.
//!
//! Invariant: a charge is durable in the batch that makes its commit the head, and goes only when the
//! chain has it for good. Called by `publish`, which adds them, and `run`, which sees to it that they are
//! charged.

use std::collections::BTreeMap;

use bytes::Bytes;
use minicbor::{CborLen, Decode, Encode};

use super::FsError;
use super::volume::{Volume, lock};
use crate::journal::record::{Content, Record as _};
use crate::journal::{JournalError, key};
use crate::pack::chunk;
use crate::types::Ino;

/// The value of a volume that lists them.
const CHARGES: &str = "charges";

/// Records that are read at a time.
const PAGE: usize = 256;

/// [`CHARGES`] as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
struct Charges {
    #[n(0)]
    list: Vec<Charge>,
}

/// One commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
struct Charge {
    #[n(0)]
    sequence: u64,
    #[n(1)]
    bytes: u64,
}

impl Volume {
    /// Commits whose charge is not known to be final, in order: sequence and bytes.
    #[must_use]
    pub fn charges(&self) -> Vec<(u64, u64)> {
        lock(&self.charges).clone()
    }

    /// Keeps `values` durably, and with them that the commit `charge` (sequence, bytes) is to be charged,
    /// where there is one. The commit is at its end.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn keep_charged(
        &self,
        mut values: Vec<(&str, Option<Bytes>)>,
        charge: Option<(u64, u64)>,
    ) -> Result<(), FsError> {
        // Whoever only asks for them does not wait for the disk.
        let _one = lock(&self.charging);
        let mut then = self.charges();
        let new = charge.filter(|(new, _)| !then.iter().any(|(known, _)| known == new));
        if let Some(charge) = new {
            then.push(charge);
            values.push((CHARGES, Some(to_bytes(&then))));
        }
        self.note(values)?;
        // The journal says so from here on, whether the disk has it yet or not.
        lock(&self.charges).clone_from(&then);
        self.quota().end_cut(then);
        self.keep(Vec::new())?;
        if new.is_some() {
            self.tell_charge();
        }
        Ok(())
    }

    /// Keeps durably that these commits (sequence, bytes) are to be charged, too: an earlier folder of the volume has
    /// published them.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn owe(&self, owed: &[(u64, u64)]) -> Result<(), FsError> {
        let _one = lock(&self.charging);
        let mut then = self.charges();
        let is_new = |(sequence, _): &&(u64, u64)| !then.iter().any(|(known, _)| known == sequence);
        let new: Vec<_> = owed.iter().filter(is_new).copied().collect();
        then.extend(new);
        then.sort_unstable();
        self.note(vec![(CHARGES, Some(to_bytes(&then)))])?;
        lock(&self.charges).clone_from(&then);
        self.quota().set_charges(then);
        self.keep(Vec::new())
    }

    /// Nothing is to be charged by this folder any more: another one is to take its place, and has it all.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn disown_charges(&self) -> Result<(), FsError> {
        let _one = lock(&self.charging);
        self.note(vec![(CHARGES, None)])?;
        lock(&self.charges).clear();
        self.quota().set_charges(Vec::new());
        self.keep(Vec::new())
    }

    /// What is not published of these files is reserved for the next commit: the one that ends has not sent it, or
    /// will be followed by one that sends it again.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn reserve_again(&self, files: impl IntoIterator<Item = Ino>) -> Result<(), FsError> {
        let mut files = files.into_iter();
        Ok(files.try_for_each(|ino| self.reserve_file(ino))?)
    }

    /// As [`Volume::reserve_again`], for all that is not published.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn reserve_unpublished(&self) -> Result<(), FsError> {
        if !self.with_quota(|quota| quota.is_additive()) {
            return Ok(());
        }
        Ok(self.each_page(&key::dirty_inodes(), PAGE, |found, _| {
            key::parse_ino(found).map_or(Ok(()), |ino| self.reserve_file(ino))
        })?)
    }

    fn reserve_file(&self, ino: Ino) -> Result<(), JournalError> {
        let Some(content) = self.journal.record::<Content>(&key::content(ino))? else {
            return Ok(());
        };
        let mut bytes = content.inline.map_or(0, |inline| inline.len() as u64);
        self.each_page(&key::chunks(ino), PAGE, |found, _| {
            let index = key::parse_second(found);
            bytes += index.map_or(0, |index| chunk::len(content.size, index));
            Ok(())
        })?;
        self.quota().take_again(bytes);
        Ok(())
    }

    /// The charges of the commits `done` are final, in these blocks or before; the others are in the blocks
    /// `mined`, or in none. A commit is kept until the allowance is of such a block: what was charged is
    /// not free in between. The commits that are kept no longer.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn settle_charges(
        &self,
        done: &[(u64, u64)],
        mut mined: BTreeMap<u64, u64>,
    ) -> Result<Vec<u64>, FsError> {
        let _one = lock(&self.charging);
        let mut then = self.charges();
        let seen = self.quota().allowance().map_or(0, |seen| seen.seen.block);
        let (over, early): (Vec<(u64, u64)>, Vec<_>) =
            done.iter().partition(|(_, block)| *block <= seen);
        mined.extend(early);
        let over: Vec<u64> = over.into_iter().map(|(sequence, _)| sequence).collect();
        if !over.is_empty() {
            then.retain(|(sequence, _)| !over.contains(sequence));
            self.note(vec![(CHARGES, Some(to_bytes(&then)))])?;
            lock(&self.charges).clone_from(&then);
        }
        {
            let mut quota = self.quota();
            quota.set_charges(then);
            quota.set_mined(mined);
        }
        if !over.is_empty() {
            self.keep(Vec::new())?;
        }
        Ok(over)
    }

    /// What the journal has of them, and what is reserved for all that is not published.
    pub(super) fn load_charges(&self) -> Result<(), JournalError> {
        if let Some(kept) = self.journal.record::<Charges>(&key::meta(CHARGES))? {
            let list = kept.list.iter().map(|one| (one.sequence, one.bytes));
            *lock(&self.charges) = list.collect();
        }
        let charges = self.charges();
        self.quota().set_charges(charges);
        Ok(())
    }
}

fn to_bytes(charges: &[(u64, u64)]) -> Bytes {
    let list = charges
        .iter()
        .map(|&(sequence, bytes)| Charge { sequence, bytes });
    Charges {
        list: list.collect(),
    }
    .to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes this record's form has commits charged twice, or not at all.
    #[test]
    fn charges_are_found_again_by_every_later_version() {
        let golden = include_str!("../../../../tests/golden/state/charges.hex");
        let bytes = to_bytes(&[(7, 4096), (300, 1 << 40)]);
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden.trim_end());
    }
}
