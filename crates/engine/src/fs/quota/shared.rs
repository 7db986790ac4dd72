//! The quota as all operations of a volume share it, with the commits that are still to be charged.
//!
//! Invariant: a charge is stored in the batch that makes its commit the head, and removed only when the chain has it for
//! good. What the journal has of charges and what the quota counts change under one lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use minicbor::{CborLen, Decode, Encode};

use super::{Access, Allowance, Quota, SCRATCH, Scratch};
use crate::clock::Clock;
use crate::fs::FsError;
use crate::fs::locks::{Memory, Ordered, OrderedGuard};
use crate::fs::notes::{Notes, Values, put_values};
use crate::fs::pages::each_page;
use crate::journal::record::{Content, Record as _};
use crate::journal::{Batch, Journal, JournalError, key};
use crate::pack::chunk;
use crate::types::Ino;

/// The value that holds the allowance.
const ALLOWANCE: &str = "allowance";
/// The value that lists the charges.
const CHARGES: &str = "charges";

/// Records that are read at a time.
const PAGE: usize = 256;

/// [`CHARGES`] as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
struct Charges {
    #[n(0)]
    list: Vec<Charge>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
struct Charge {
    #[n(0)]
    sequence: u64,
    #[n(1)]
    bytes: u64,
}

/// The quota of a volume behind its lock.
pub(in crate::fs) struct SharedQuota {
    quota: Ordered<Quota, Memory>,
    journal: Arc<Journal>,
    notes: Notes,
    clock: Arc<dyn Clock>,
}

impl SharedQuota {
    /// As the journal has it, but for charges: see [`SharedQuota::load_charges`].
    pub(in crate::fs) fn load(
        journal: &Arc<Journal>,
        notes: Notes,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, JournalError> {
        let allowance = journal.record::<Allowance>(&key::meta(ALLOWANCE))?;
        let scratch = journal.get(&key::meta(SCRATCH))?;
        let scratch = Scratch::read(&scratch.unwrap_or_default());
        Ok(Self {
            quota: Ordered::new(Quota::new(allowance, 0).with_scratch(scratch)),
            notes,
            journal: Arc::clone(journal),
            clock,
        })
    }

    #[track_caller]
    pub(in crate::fs) fn lock(&self) -> OrderedGuard<'_, Quota, Memory> {
        self.quota.lock()
    }

    /// Stores a value that the quota alone changes, so its lock is enough.
    fn store(&self, name: &str, value: Option<Bytes>) -> Result<(), FsError> {
        let mut batch = Batch::default();
        put_values(&mut batch, vec![(name, value)]);
        Ok(self.journal.apply(batch)?)
    }

    pub(in crate::fs) fn is_overdue(&self) -> bool {
        self.lock().overdue(self.clock.as_ref())
    }

    /// Takes a newer allowance and stores it: it holds offline and after a restart too.
    pub(in crate::fs) fn set_allowance(&self, allowance: &Allowance) -> Result<(), FsError> {
        let mut quota = self.lock();
        quota.set_allowance(allowance.clone());
        let taken = quota.allowance().map(|taken| taken.to_bytes());
        self.store(ALLOWANCE, taken)
    }

    pub(in crate::fs) fn set_access(&self, access: Access) {
        self.lock().set_access(access);
    }

    /// Commits whose charge is not final, in order: sequence and bytes.
    pub(in crate::fs) fn charges(&self) -> Vec<(u64, u64)> {
        self.lock().charges().to_vec()
    }

    /// The commit ends: stores the values that `change` makes of what it reads, with the charge that it gives, if any;
    /// whether that charge is new.
    pub(in crate::fs) fn add_charge<E: From<FsError>>(
        &self,
        change: impl FnOnce(&Notes) -> Result<(Option<(u64, u64)>, Values), E>,
    ) -> Result<bool, E> {
        // It comes first: whoever else has it may wait for the disk, and every call asks the quota.
        let writing = self.notes.writing();
        let (charge, mut values) = change(&self.notes)?;
        let mut quota = self.lock();
        let mut charges = quota.charges().to_vec();
        let new = charge.filter(|(new, _)| !charges.iter().any(|(known, _)| known == new));
        if let Some(charge) = new {
            charges.push(charge);
            values.push((CHARGES, Some(to_bytes(&charges))));
        }
        writing.store(values)?;
        quota.end_cut(charges);
        Ok(new.is_some())
    }

    /// Stores charges that an earlier folder of the volume has left.
    pub(in crate::fs) fn take_charges(&self, owed: &[(u64, u64)]) -> Result<(), FsError> {
        let mut quota = self.lock();
        let mut charges = quota.charges().to_vec();
        let is_new =
            |(sequence, _): &&(u64, u64)| !charges.iter().any(|(known, _)| known == sequence);
        let new: Vec<_> = owed.iter().filter(is_new).copied().collect();
        charges.extend(new);
        charges.sort_unstable();
        self.store(CHARGES, Some(to_bytes(&charges)))?;
        quota.set_charges(charges);
        Ok(())
    }

    /// Removes all charges: another folder has them.
    pub(in crate::fs) fn drop_charges(&self) -> Result<(), FsError> {
        let mut quota = self.lock();
        self.store(CHARGES, None)?;
        quota.set_charges(Vec::new());
        Ok(())
    }

    /// The charges `done` are final in these blocks; the others are in the blocks `mined`, or in none. Gives the commits
    /// that are charged for good: those whose block the allowance has seen, so that no bytes look free in between.
    pub(in crate::fs) fn settle_charges(
        &self,
        done: &[(u64, u64)],
        mut mined: BTreeMap<u64, u64>,
    ) -> Result<Vec<u64>, FsError> {
        let mut quota = self.lock();
        let mut charges = quota.charges().to_vec();
        let seen = quota.allowance().map_or(0, |seen| seen.seen.block);
        let (over, early): (Vec<(u64, u64)>, Vec<_>) =
            done.iter().partition(|(_, block)| *block <= seen);
        mined.extend(early);
        let over: Vec<u64> = over.into_iter().map(|(sequence, _)| sequence).collect();
        if !over.is_empty() {
            charges.retain(|(sequence, _)| !over.contains(sequence));
            self.store(CHARGES, Some(to_bytes(&charges)))?;
        }
        quota.set_charges(charges);
        quota.set_mined(mined);
        Ok(over)
    }

    /// Takes the charges that the journal has.
    pub(in crate::fs) fn load_charges(&self) -> Result<(), JournalError> {
        let stored: Option<Charges> = self.journal.record(&key::meta(CHARGES))?;
        let list = stored.unwrap_or_default().list;
        let charges = list.iter().map(|one| (one.sequence, one.bytes)).collect();
        self.lock().set_charges(charges);
        Ok(())
    }

    /// Reserves for the next commit what is unpublished of a file.
    pub(in crate::fs) fn reserve_file(&self, ino: Ino) -> Result<(), JournalError> {
        let Some(content) = self.journal.record::<Content>(&key::content(ino))? else {
            return Ok(());
        };
        let mut bytes = content.inline.map_or(0, |inline| inline.len() as u64);
        each_page(&self.journal, &key::chunks(ino), PAGE, |found, _| {
            let index = key::parse_second(found);
            bytes += index.map_or(0, |index| chunk::len(content.size, index));
            Ok(())
        })?;
        self.lock().take_again(bytes);
        Ok(())
    }

    /// As [`SharedQuota::reserve_file`], for all that is unpublished, if the contract charges each commit what it sends.
    pub(in crate::fs) fn reserve_unpublished(&self) -> Result<(), JournalError> {
        if !self.lock().is_additive() {
            return Ok(());
        }
        each_page(&self.journal, &key::dirty_inodes(), PAGE, |found, _| {
            key::parse_ino(found).map_or(Ok(()), |ino| self.reserve_file(ino))
        })
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
        let golden = include_str!("../../../../../tests/golden/state/charges.hex");
        let bytes = to_bytes(&[(7, 4096), (300, 1 << 40)]);
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden.trim_end());
    }
}
