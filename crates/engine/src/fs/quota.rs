//! What a token grants, and what is used of it. Pure: time and allowance are handed in.
//!
//! Invariant: `used_bytes` is the sum of the charges (`pack::charge`) of what was acknowledged;
//! growth is reserved here before it is acknowledged, so a commit never finds too little.

use std::time::Duration;

use minicbor::{CborLen, Decode, Encode};

mod additive;
mod scratch;
mod shared;

pub(super) use additive::Taken;
pub(super) use scratch::{SCRATCH, Scratch};
pub(super) use shared::SharedQuota;

use super::{FsError, StatFs};
use crate::clock::Clock;
use crate::pack::charge;

/// What growth never takes: room for calls that must not fail for want of quota.
const MIN_RESERVE_BYTES: u64 = 64 << 10;

/// Why nothing can be changed while another tree is taken over.
pub(super) const TAKEN_OVER: &str = "another machine has gone on, and its work is being taken over; if this stays: unmount, and \
                          mount again";

/// Share of the reserve that small new files may take, and bytes of it at most. The rest is for calls that must not fail.
const SMALL_SHARE: u64 = 2;
const MAX_SMALL_BYTES: u64 = scratch::FILES as u64 * scratch::FILE_BYTES;

/// Unit of `statfs`, in bytes.
const BLOCK: u64 = 4096;

/// What the chain grants, as it was last seen. Persisted: it holds offline too.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub struct Allowance {
    /// Quota in bytes.
    #[n(0)]
    pub size_bytes: u64,
    /// Usage on chain in bytes.
    #[n(1)]
    pub usage_on_chain_bytes: u64,
    /// Whether the contract's accounting is additive.
    #[n(2)]
    pub additive: bool,
    /// Upload units left, where the contract has them.
    #[n(3)]
    pub uploads_left: Option<u64>,
    /// Unix time of the last sync, seconds.
    #[n(4)]
    pub last_sync_s: u64,
    /// Seconds a token may go without one.
    #[n(5)]
    pub sync_window_s: u64,
    /// When this was seen.
    #[n(6)]
    pub seen: ChainTime,
    /// Bytes of the quota that others have used: usage on chain that is not of what is stored from here.
    #[n(7)]
    #[cbor(default)]
    pub others_bytes: u64,
}

impl Allowance {
    /// Chain time after which growth is locked, unix seconds.
    #[must_use]
    pub fn deadline_s(&self) -> u64 {
        self.last_sync_s.saturating_add(self.sync_window_s)
    }
}

/// A moment of the chain, tied to this machine's clocks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, CborLen)]
#[cbor(array)]
pub struct ChainTime {
    /// Block number.
    #[n(0)]
    pub block: u64,
    /// Block timestamp, unix seconds.
    #[n(1)]
    pub timestamp_s: u64,
    /// Time since boot when it was seen, nanoseconds.
    #[n(2)]
    pub boottime_ns: u64,
    /// Which boot that was.
    #[n(3)]
    pub boot_id: String,
    /// Wall time when it was seen, nanoseconds.
    #[n(4)]
    pub wall_ns: i64,
}

impl ChainTime {
    /// Block `block` of `timestamp_s`, seen now.
    #[must_use]
    pub fn now(block: u64, timestamp_s: u64, clock: &dyn Clock) -> Self {
        Self {
            block,
            timestamp_s,
            boottime_ns: nanos(clock.boottime()),
            boot_id: clock.boot_id(),
            wall_ns: clock.wall_ns(),
        }
    }

    /// What time it is on chain now, unix seconds: the block's, and what has passed since.
    fn estimate_s(&self, clock: &dyn Clock) -> u64 {
        let passed_ns = if clock.boot_id() == self.boot_id {
            nanos(clock.boottime()).saturating_sub(self.boottime_ns)
        } else {
            u64::try_from(clock.wall_ns().saturating_sub(self.wall_ns)).unwrap_or(0)
        };
        self.timestamp_s.saturating_add(passed_ns / 1_000_000_000)
    }
}

/// Why a token takes no change at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// It does.
    #[default]
    Open,
    /// Nothing may be changed, for this reason.
    ReadOnly(String),
}

/// Who asks for room, and so how much of the quota it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Ordinary growth: all but the reserve.
    Ordinary,
    /// A small new file: also its share of the reserve.
    SmallFile,
    /// What must not fail: all, and more.
    Forced,
}

/// The quota of one volume.
#[derive(Debug)]
pub struct Quota {
    allowance: Option<Allowance>,
    used_bytes: u64,
    /// Kept for bytes that files in use are to get, beside what is used.
    kept_bytes: u64,
    /// What holds: see [`Quota::renew_access`].
    access: Access,
    asked: Access,
    /// Why nothing is taken any more: a local sync failed.
    failed: Option<String>,
    /// Another tree is taking this one's place.
    is_taken_over: bool,
    unsettled: additive::Unsettled,
    scratch: scratch::Scratch,
    /// The latest chain time ever estimated; time on chain does not go back.
    latest_s: u64,
}

impl Quota {
    /// A quota of which `used_bytes` are used; nothing may grow before an allowance is known.
    #[must_use]
    pub fn new(allowance: Option<Allowance>, used_bytes: u64) -> Self {
        Self {
            allowance,
            used_bytes,
            kept_bytes: 0,
            access: Access::Open,
            asked: Access::Open,
            failed: None,
            is_taken_over: false,
            unsettled: additive::Unsettled::default(),
            scratch: scratch::Scratch::default(),
            latest_s: 0,
        }
    }

    /// Takes a newer allowance. Time on chain does not go back, unless by more than an hour: then it was a
    /// block with a wrong time that set it, or the chain begins anew (a development chain that was reset).
    /// While a chain shows no newer block, its time goes on from when the last one was first seen.
    pub fn set_allowance(&mut self, mut allowance: Allowance) {
        if let Some(old) = &self.allowance {
            if allowance.seen.timestamp_s.saturating_add(3600) < old.seen.timestamp_s {
                self.latest_s = 0;
            }
            if allowance.seen.timestamp_s == old.seen.timestamp_s {
                allowance.seen = ChainTime {
                    block: allowance.seen.block,
                    ..old.seen.clone()
                };
            }
        }
        self.allowance = Some(allowance);
    }

    /// Opens or closes the volume for every change. It stays closed after [`Quota::fail`], and during a take-over.
    pub fn set_access(&mut self, access: Access) {
        self.asked = access;
        self.renew_access();
    }

    /// Closes the volume for good, for this reason or an earlier one.
    pub(super) fn fail(&mut self, reason: String) {
        self.failed.get_or_insert(reason);
        self.renew_access();
    }

    /// Why it is closed for good.
    pub(super) fn failed(&self) -> Option<&String> {
        self.failed.as_ref()
    }

    /// Closes the volume while another tree takes this one's place; whether it was closed for that before.
    pub(super) fn set_taken_over(&mut self, is_taken_over: bool) -> bool {
        let before = std::mem::replace(&mut self.is_taken_over, is_taken_over);
        self.renew_access();
        before
    }

    pub(super) fn is_taken_over(&self) -> bool {
        self.is_taken_over
    }

    fn renew_access(&mut self) {
        let closed = self.failed.clone();
        let closed = closed.or_else(|| self.is_taken_over.then(|| TAKEN_OVER.to_owned()));
        self.access = closed.map_or_else(|| self.asked.clone(), Access::ReadOnly);
    }

    /// Whether the volume takes changes.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The allowance, if one is known.
    #[must_use]
    pub fn allowance(&self) -> Option<&Allowance> {
        self.allowance.as_ref()
    }

    /// Nominal bytes in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Bytes that are kept beside them, for files in use.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// The quota in bytes; 0 while none is known.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.allowance.as_ref().map_or(0, |a| a.size_bytes)
    }

    /// What of the quota is left to this volume, in bytes.
    #[must_use]
    pub fn own_bytes(&self) -> u64 {
        let others = self.allowance.as_ref().map_or(0, |a| a.others_bytes);
        self.size_bytes().saturating_sub(others)
    }

    /// Bytes that are not used. Ordinary writes get [`Quota::room_bytes`] of them.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        match self.is_additive() {
            true => self.additive_free_bytes(),
            false => (self.own_bytes())
                .saturating_sub(self.used_bytes)
                .saturating_sub(self.kept_bytes),
        }
    }

    /// What growth leaves alone, in bytes.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        MIN_RESERVE_BYTES.max(self.size_bytes() / 1000)
    }

    /// Whether the sync is overdue by now.
    pub fn overdue(&mut self, clock: &dyn Clock) -> bool {
        let Some(allowance) = &self.allowance else {
            return false;
        };
        self.latest_s = self.latest_s.max(allowance.seen.estimate_s(clock));
        self.latest_s > allowance.deadline_s()
    }

    /// Seconds until the sync is overdue; `None` while no allowance is known.
    pub fn seconds_left(&mut self, clock: &dyn Clock) -> Option<u64> {
        self.overdue(clock);
        let deadline_s = self.allowance.as_ref()?.deadline_s();
        Some(deadline_s.saturating_sub(self.latest_s))
    }

    /// Refuses every change of a volume that takes none.
    ///
    /// # Errors
    /// [`FsError::ReadOnly`].
    pub fn check_change(&self) -> Result<(), FsError> {
        match &self.access {
            Access::Open => Ok(()),
            Access::ReadOnly(reason) => Err(FsError::ReadOnly(reason.clone())),
        }
    }

    /// Refuses `write` and growth while the sync is overdue, and every change of a volume that
    /// takes none.
    ///
    /// # Errors
    /// [`FsError::ReadOnly`], [`FsError::Overdue`]; [`FsError::Quota`] where no upload unit is left.
    pub fn check_write(&mut self, clock: &dyn Clock) -> Result<(), FsError> {
        self.check_change()?;
        if self.overdue(clock) {
            return Err(FsError::Overdue);
        }
        self.check_units()
    }

    /// Bytes that growth may still take.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.free_bytes().saturating_sub(self.reserve_bytes())
    }

    /// Bytes that `claim` may still take.
    pub(super) fn room_for(&self, claim: Claim) -> u64 {
        match claim {
            Claim::Ordinary => self.room_bytes(),
            // Where usage never falls again, locks would eat up for good what commits need.
            Claim::SmallFile if self.is_additive() => self.room_bytes(),
            Claim::SmallFile => {
                let reserve = self.reserve_bytes();
                let share = (reserve / SMALL_SHARE).min(MAX_SMALL_BYTES);
                self.free_bytes().saturating_sub(reserve - share)
            }
            Claim::Forced => u64::MAX,
        }
    }

    /// Takes `bytes` for ordinary growth.
    ///
    /// # Errors
    /// [`FsError::Quota`] when they do not fit: nothing is taken.
    pub fn grow(&mut self, bytes: u64) -> Result<(), FsError> {
        self.grow_as(bytes, Claim::Ordinary)
    }

    /// As [`Quota::grow`], for `claim`.
    pub(super) fn grow_as(&mut self, bytes: u64, claim: Claim) -> Result<(), FsError> {
        if bytes > self.room_for(claim) {
            return Err(FsError::Quota);
        }
        self.used_bytes = self.used_bytes.saturating_add(bytes);
        self.take(bytes);
        Ok(())
    }

    /// Moves what is used and what is kept, by so many bytes each. Both together are growth.
    ///
    /// # Errors
    /// [`FsError::Quota`] when that does not fit: nothing is moved.
    pub(super) fn hold(&mut self, used: i64, kept: i64, claim: Claim) -> Result<(), FsError> {
        let growth = u64::try_from(used.saturating_add(kept)).unwrap_or(0);
        if growth > self.room_for(claim) {
            return Err(FsError::Quota);
        }
        self.kept_bytes = self.kept_bytes.saturating_add_signed(kept);
        self.adjust(used);
        Ok(())
    }

    /// Gives back `bytes` that were kept.
    pub(super) fn give_room_back(&mut self, bytes: u64) {
        self.kept_bytes = self.kept_bytes.saturating_sub(bytes);
    }

    /// Books a change that is not growth, up or down: never refused.
    pub fn adjust(&mut self, delta: i64) {
        self.used_bytes = self.used_bytes.saturating_add_signed(delta);
        self.take(u64::try_from(delta).unwrap_or(0));
    }

    /// What `statfs` tells of a volume of `inodes`.
    #[must_use]
    pub fn statfs(&self, inodes: u64) -> StatFs {
        let files_free = self.room_bytes() / charge::SMALLEST_ENTRY;
        StatFs {
            blocks: self.size_bytes() / BLOCK,
            free: self.free_bytes() / BLOCK,
            available: self.room_bytes() / BLOCK,
            files: inodes.saturating_add(files_free),
            files_free,
        }
    }
}

/// Bytes as a change of what is used.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const DAY: u64 = 86_400;

    pub(in crate::fs) fn allowance(clock: &dyn Clock, size_bytes: u64) -> Allowance {
        Allowance {
            size_bytes,
            usage_on_chain_bytes: 0,
            additive: false,
            uploads_left: None,
            last_sync_s: 1_000_000,
            sync_window_s: 30 * DAY,
            seen: ChainTime::now(7, 1_000_000, clock),
            others_bytes: 0,
        }
    }

    #[test]
    fn space_used_by_others_is_not_free_even_after_restart() {
        let clock = ManualClock::at(0);
        let mut quota = Quota::new(None, 0);
        quota.set_allowance(Allowance {
            others_bytes: 1 << 20,
            ..allowance(&clock, 4 << 20)
        });
        quota.grow(1 << 20).unwrap();
        assert_eq!((quota.size_bytes(), quota.free_bytes()), (4 << 20, 2 << 20));
        assert_eq!(quota.grow(2 << 20), Err(FsError::Quota));
        let kept = minicbor::to_vec(quota.allowance()).unwrap();
        let kept: Option<Allowance> = minicbor::decode(&kept).unwrap();
        assert_eq!(kept.as_ref(), quota.allowance());
    }

    /// As an earlier version has written it, which knew of no others.
    #[test]
    fn a_grant_that_an_earlier_version_has_kept_holds() {
        let clock = ManualClock::at(0);
        let grant = allowance(&clock, 1 << 30);
        let kept = minicbor::to_vec(&grant).unwrap();
        // An array of eight, the last of which is 0.
        let (Some((&0x88, fields)), Some(0)) = (kept.split_first(), kept.last()) else {
            panic!("{kept:02x?}");
        };
        let earlier = [&[0x87], &fields[..fields.len() - 1]].concat();
        assert_eq!(minicbor::decode::<Allowance>(&earlier).unwrap(), grant);
    }

    #[test]
    fn growth_stops_at_the_exact_byte() {
        let clock = ManualClock::at(0);
        let mut quota = Quota::new(Some(allowance(&clock, 104_857_600)), 4096);
        let room = quota.room_bytes();
        assert_eq!(room, 104_857_600 - 4096 - 104_857);
        assert_eq!(quota.grow(room + 1), Err(FsError::Quota));
        assert_eq!(quota.grow(room), Ok(()));
        assert_eq!(quota.grow(1), Err(FsError::Quota));
        quota.adjust(1000);
        assert_eq!(quota.used_bytes(), 4096 + room + 1000);
        quota.adjust(-2000);
        assert_eq!(quota.grow(1000), Ok(()));
    }

    #[test]
    fn small_new_files_get_half_the_reserve_but_never_exceed_the_quota() {
        let clock = ManualClock::at(0);
        for (size, share) in [
            (100 << 20, (100 << 20) / 1000 / 2),
            (1 << 20, 32 << 10),
            (1 << 40, 1 << 20),
        ] {
            let mut quota = Quota::new(Some(allowance(&clock, size)), 0);
            quota.grow(quota.room_bytes()).unwrap();
            assert_eq!(quota.room_for(Claim::SmallFile), share, "{size}");
            let grown = quota.grow_as(share + 1, Claim::SmallFile);
            assert_eq!(grown, Err(FsError::Quota), "{size}");
            quota.grow_as(share, Claim::SmallFile).unwrap();
            assert!(quota.used_bytes() < size);
        }
        let mut additive = allowance(&clock, 1 << 30);
        additive.additive = true;
        let mut quota = Quota::new(Some(additive), 0);
        quota.grow(quota.room_bytes()).unwrap();
        assert_eq!(quota.room_for(Claim::SmallFile), 0);
    }

    #[test]
    fn a_full_volume_has_no_free_blocks_and_never_negative_ones() {
        let clock = ManualClock::at(0);
        let quota = Quota::new(Some(allowance(&clock, 10_000)), 20_000);
        let told = quota.statfs(9);
        assert_eq!((told.blocks, told.free, told.available), (2, 0, 0));
        assert_eq!((told.files, told.files_free), (9, 0));
    }

    #[test]
    fn writing_stops_one_second_after_the_deadline_also_offline() {
        let clock = ManualClock::at(0);
        let mut quota = Quota::new(Some(allowance(&clock, 1 << 30)), 0);
        clock.advance(Duration::from_secs(30 * DAY));
        assert_eq!(quota.check_write(&clock), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(quota.check_write(&clock), Err(FsError::Overdue));
        assert_eq!(quota.check_change(), Ok(()), "deleting goes on");
    }

    #[test]
    fn time_goes_on_while_a_server_shows_one_old_block_for_ever() {
        let clock = ManualClock::at(0);
        let mut quota = Quota::new(Some(allowance(&clock, 1 << 30)), 0);
        for _ in 0..31 {
            clock.advance(Duration::from_secs(DAY));
            // The same block, looked at once more.
            quota.set_allowance(allowance(&clock, 1 << 30));
        }
        assert_eq!(quota.check_write(&clock), Err(FsError::Overdue));
    }

    #[test]
    fn one_block_with_a_future_timestamp_does_not_lock_the_drive() {
        let clock = ManualClock::at(0);
        let mut quota = Quota::new(Some(allowance(&clock, 1 << 30)), 0);
        let mut ahead = allowance(&clock, 1 << 30);
        ahead.seen = ChainTime::now(8, 1_000_000 + 60 * DAY, &clock);
        quota.set_allowance(ahead);
        assert_eq!(quota.check_write(&clock), Err(FsError::Overdue));
        let mut right = allowance(&clock, 1 << 30);
        right.seen = ChainTime::now(9, 1_000_012, &clock);
        quota.set_allowance(right);
        assert_eq!(quota.check_write(&clock), Ok(()));
    }

    #[test]
    fn a_sync_reopens_at_once() {
        let clock = ManualClock::at(0);
        let mut quota = Quota::new(Some(allowance(&clock, 1 << 30)), 0);
        clock.advance(Duration::from_secs(40 * DAY));
        assert_eq!(quota.check_write(&clock), Err(FsError::Overdue));
        let mut synced = allowance(&clock, 1 << 30);
        synced.last_sync_s = 1_000_000 + 40 * DAY;
        quota.set_allowance(synced);
        assert_eq!(quota.check_write(&clock), Ok(()));
    }
}
