//! The directories of the mountpoint: which volume is shown in which slot, under which name.
//!
//! Invariant: a slot is given to one volume in a run, also when that is shown no longer: the
//! kernel may still hold its inodes, and pages of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Drive;
use crate::fs::FsError;
use crate::fs::volume::Volume;
use crate::journal::record::Record;

/// The greatest slot: its inode numbers are the greatest that the kernel takes.
const LAST: u16 = u16::MAX - 1;

/// Name of the slot that a volume has, in its journal, where that is not the one it prefers.
const SLOT: &str = "slot";

/// A directory of the mountpoint.
struct Attached {
    name: Vec<u8>,
    volume: Arc<Volume>,
    /// What was a token's volume, and is no longer.
    aside: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Slots(RwLock<Table>);

#[derive(Default)]
struct Table {
    shown: BTreeMap<u16, Attached>,
    given: HashSet<u16>,
}

impl Slots {
    /// The volume that is shown as `name`, with its slot.
    pub(super) fn find(&self, name: &[u8]) -> Option<(u16, Arc<Volume>)> {
        let table = self.read();
        let found = table.shown.iter().find(|(_, one)| one.name == name);
        found.map(|(slot, one)| (*slot, Arc::clone(&one.volume)))
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
        match self.shown.values().any(|one| one.name == name.as_bytes()) {
            true => Err(FsError::Exists),
            false => Ok(()),
        }
    }
}

impl Drive {
    /// Shows `volume` as the directory `name`. The slot to number its inodes by, which is the answer, is one that was
    /// not given yet (1 to 65,534): the volume's last one, where that was not the preferred one, or `preferred`, or the
    /// greatest. One that is not the preferred one is kept in the journal, so that the numbers stay the same whoever comes first.
    ///
    /// # Errors
    /// [`FsError::Exists`] when the name is taken, [`FsError::NoRoom`] when every slot is; the journal fails.
    pub fn attach(&self, name: &str, preferred: u16, volume: Arc<Volume>) -> Result<u16, FsError> {
        let kept = volume.meta::<u16>(SLOT)?;
        let mut table = self.slots.write();
        table.check_free(name)?;
        let preferred = preferred.clamp(1, LAST);
        let slot = (kept.into_iter().filter(|kept| (1..=LAST).contains(kept)))
            .chain([preferred])
            .chain((1..=LAST).rev())
            .find(|slot| !table.given.contains(slot))
            .ok_or(FsError::NoRoom)?;
        if slot != kept.unwrap_or(preferred) {
            volume.note(vec![(SLOT, Some(slot.to_bytes()))])?;
        }
        let attached = Attached {
            name: name.as_bytes().to_vec(),
            volume,
            aside: false,
        };
        table.given.insert(slot);
        table.shown.insert(slot, attached);
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
        attached.name = name.as_bytes().to_vec();
        attached.aside = aside;
        Ok(())
    }

    /// Shows the volume in `slot` no longer. Open handles keep it.
    pub fn detach(&self, slot: u16) {
        self.slots.write().shown.remove(&slot);
    }

    /// The volumes that are shown, by slot, with their directories' names.
    #[must_use]
    pub fn volumes(&self) -> Vec<(u16, String, Arc<Volume>)> {
        let table = self.slots.read();
        let told = table.shown.iter().map(|(slot, one)| {
            (
                *slot,
                String::from_utf8_lossy(&one.name).into_owned(),
                Arc::clone(&one.volume),
            )
        });
        told.collect()
    }

    /// The volume in `slot`.
    #[must_use]
    pub fn volume(&self, slot: u16) -> Option<Arc<Volume>> {
        let table = self.slots.read();
        table.shown.get(&slot).map(|one| Arc::clone(&one.volume))
    }
}
