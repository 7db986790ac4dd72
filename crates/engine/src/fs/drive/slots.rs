//! The directories of the mountpoint: which volume is shown in which slot, under which name. A directory that nobody has
//! used yet has none: it is opened when a call needs more than the list of the mountpoint tells.
//!
//! Invariant: a slot is given to one volume in a run, also when that is shown no longer: the
//! kernel may still hold its inodes, and pages of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Drive;
use crate::fs::volume::Volume;
use crate::fs::{Allowance, FsError, Quota, StatFs};
use crate::journal::record::Record;
use crate::pack::charge::VOLUME_OVERHEAD;

/// The greatest slot: its inode numbers are the greatest that the kernel takes.
const LAST: u16 = u16::MAX - 1;

/// Name of the slot that a volume has, in its journal, where that is not the one it prefers.
const SLOT: &str = "slot";

/// A directory of the mountpoint.
struct Attached {
    name: Vec<u8>,
    shows: Shows,
    /// What was a token's volume, and is no longer.
    aside: bool,
}

/// What a directory of the mountpoint shows.
#[derive(Clone)]
pub(super) enum Shows {
    /// This volume.
    Volume(Arc<Volume>),
    /// What nobody has used yet.
    Unused(Unused),
}

/// A token's directory that nobody has used yet: it is as a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unused {
    /// Room and use, by what the chain says.
    pub stat: StatFs,
}

impl Unused {
    /// With what `allowance` grants.
    #[must_use]
    pub fn of(allowance: Allowance) -> Self {
        Self {
            stat: Self::quota(allowance).statfs(1),
        }
    }

    /// What `allowance` grants to a token of which no more is known.
    #[must_use]
    pub fn quota(allowance: Allowance) -> Quota {
        // Where usage on chain is that of this volume it is in use already; the quota knows of any other.
        let usage = match allowance.additive || allowance.others_bytes > 0 {
            true => 0,
            false => allowance.usage_on_chain_bytes,
        };
        Quota::new(Some(allowance), VOLUME_OVERHEAD.max(usage))
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Slots(RwLock<Table>);

#[derive(Default)]
struct Table {
    shown: BTreeMap<u16, Attached>,
    names: HashMap<Vec<u8>, u16>,
    given: HashSet<u16>,
}

impl Slots {
    /// What is shown as `name`, with its slot.
    pub(super) fn find(&self, name: &[u8]) -> Option<(u16, Shows)> {
        let table = self.read();
        let slot = *table.names.get(name)?;
        Some((slot, table.shown.get(&slot)?.shows.clone()))
    }

    /// What is shown in `slot`.
    pub(super) fn get(&self, slot: u16) -> Option<Shows> {
        self.read().shown.get(&slot).map(|one| one.shows.clone())
    }

    /// How many directories there are.
    pub(super) fn count(&self) -> usize {
        self.read().shown.len()
    }

    /// The first `most` behind `slot`, with their names.
    pub(super) fn after(&self, slot: u16, most: usize) -> Vec<(u16, Vec<u8>, Shows)> {
        let table = self.read();
        let behind = (Bound::Excluded(slot), Bound::Unbounded);
        let told = table.shown.range(behind).take(most);
        told.map(|(slot, one)| (*slot, one.name.clone(), one.shows.clone()))
            .collect()
    }

    /// What is shown, but for what was set aside.
    pub(super) fn in_use(&self) -> Vec<Shows> {
        let table = self.read();
        let told = table.shown.values().filter(|one| !one.aside);
        told.map(|one| one.shows.clone()).collect()
    }

    /// Whether the volume in `slot` was set aside.
    pub(super) fn is_aside(&self, slot: u16) -> bool {
        self.read().shown.get(&slot).is_some_and(|one| one.aside)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn check_free(&self, name: &str) -> Result<(), FsError> {
        match self.names.contains_key(name.as_bytes()) {
            true => Err(FsError::Exists),
            false => Ok(()),
        }
    }

    /// The first of these slots that was not given yet, else the greatest such.
    fn free_slot(&self, wanted: impl Iterator<Item = u16>) -> Result<u16, FsError> {
        wanted
            .chain((1..=LAST).rev())
            .find(|slot| !self.given.contains(slot))
            .ok_or(FsError::NoRoom)
    }

    /// The slot of the directory `name`, where nobody has used it yet.
    fn unused(&self, name: &str) -> Option<u16> {
        let slot = *self.names.get(name.as_bytes())?;
        let one = self.shown.get(&slot)?;
        matches!(one.shows, Shows::Unused(_)).then_some(slot)
    }

    fn show(&mut self, slot: u16, name: &str, shows: Shows) {
        let name = name.as_bytes().to_vec();
        self.given.insert(slot);
        self.names.insert(name.clone(), slot);
        let attached = Attached {
            name,
            shows,
            aside: false,
        };
        self.shown.insert(slot, attached);
    }
}

impl Drive {
    /// Shows `volume` as the directory `name`. The slot to number its inodes by, which is the answer, is one that was
    /// not given yet (1 to 65,534): the volume's last one, where that was not the preferred one, or `preferred`, or the
    /// greatest. One that is not the preferred one is kept in the journal, so that the numbers stay the same whoever comes first.
    /// A directory that nobody has used yet keeps its slot.
    ///
    /// # Errors
    /// [`FsError::Exists`] when the name is taken, [`FsError::NoRoom`] when every slot is; the journal fails.
    pub fn attach(&self, name: &str, preferred: u16, volume: Arc<Volume>) -> Result<u16, FsError> {
        let kept = volume.meta::<u16>(SLOT)?;
        let mut table = self.slots.write();
        let preferred = preferred.clamp(1, LAST);
        let slot = match table.unused(name) {
            Some(slot) => slot,
            None => {
                table.check_free(name)?;
                let kept = kept.into_iter().filter(|kept| (1..=LAST).contains(kept));
                table.free_slot(kept.chain([preferred]))?
            }
        };
        if slot != kept.unwrap_or(preferred) {
            volume.note(vec![(SLOT, Some(slot.to_bytes()))])?;
        }
        table.show(slot, name, Shows::Volume(volume));
        Ok(slot)
    }

    /// Shows the directory `name` of a token that nobody has used yet, or that it is `unused` still. Its slot, as
    /// [`Drive::attach`] has it.
    ///
    /// # Errors
    /// [`FsError::Exists`] when a volume has the name, [`FsError::NoRoom`] when every slot is taken.
    pub fn attach_unused(
        &self,
        name: &str,
        preferred: u16,
        unused: Unused,
    ) -> Result<u16, FsError> {
        let mut table = self.slots.write();
        let slot = match table.unused(name) {
            Some(slot) => slot,
            None => {
                table.check_free(name)?;
                table.free_slot([preferred.clamp(1, LAST)].into_iter())?
            }
        };
        table.show(slot, name, Shows::Unused(unused));
        Ok(slot)
    }

    /// The volume in `slot` is no token's any more: from now on it is shown as `name`, and does not
    /// count in the mountpoint's sums.
    ///
    /// # Errors
    /// [`FsError::Exists`] when another has the name, [`FsError::NotFound`].
    pub fn set_aside(&self, slot: u16, name: &str) -> Result<(), FsError> {
        self.rename_slot(slot, name, true)
    }

    /// The volume in `slot`, which was set aside, is a token's again, and is shown as `name`.
    ///
    /// # Errors
    /// As [`Drive::set_aside`].
    pub fn take_back(&self, slot: u16, name: &str) -> Result<(), FsError> {
        self.rename_slot(slot, name, false)
    }

    fn rename_slot(&self, slot: u16, name: &str, aside: bool) -> Result<(), FsError> {
        let mut table = self.slots.write();
        let own = table.shown.get(&slot).ok_or(FsError::NotFound)?.name == name.as_bytes();
        if !own {
            table.check_free(name)?;
        }
        let attached = table.shown.get_mut(&slot).ok_or(FsError::NotFound)?;
        attached.aside = aside;
        let before = std::mem::replace(&mut attached.name, name.as_bytes().to_vec());
        table.names.remove(&before);
        table.names.insert(name.as_bytes().to_vec(), slot);
        Ok(())
    }

    /// Shows what is in `slot` no longer. Open handles keep a volume.
    pub fn detach(&self, slot: u16) {
        let mut table = self.slots.write();
        let Some(gone) = table.shown.remove(&slot) else {
            return;
        };
        table.names.remove(&gone.name);
        if let Shows::Unused(_) = gone.shows {
            // The kernel holds nothing of it but the directory.
            table.given.remove(&slot);
        }
    }

    /// The volumes that are shown and open, by slot, with their directories' names.
    #[must_use]
    pub fn volumes(&self) -> Vec<(u16, String, Arc<Volume>)> {
        let table = self.slots.read();
        let told = table.shown.iter().filter_map(|(slot, one)| {
            let Shows::Volume(volume) = &one.shows else {
                return None;
            };
            let name = String::from_utf8_lossy(&one.name).into_owned();
            Some((*slot, name, Arc::clone(volume)))
        });
        told.collect()
    }

    /// The names of all directories, in the order of their slots.
    #[must_use]
    pub fn directories(&self) -> Vec<String> {
        let table = self.slots.read();
        let names = table.shown.values().map(|one| &one.name);
        names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    /// The volume in `slot`, where it is open.
    #[must_use]
    pub fn volume(&self, slot: u16) -> Option<Arc<Volume>> {
        match self.slots.get(slot)? {
            Shows::Volume(volume) => Some(volume),
            Shows::Unused(_) => None,
        }
    }

    /// Whether the directory of the token in `slot` is one that nobody has used yet.
    #[must_use]
    pub fn is_unused(&self, slot: u16) -> bool {
        matches!(self.slots.get(slot), Some(Shows::Unused(_)))
    }
}
