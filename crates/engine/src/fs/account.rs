//! What the quota holds for one file in use: what its content is charged, and what is kept for bytes that are to come.
//!
//! Invariant: while nobody changes the file, it holds what its content is charged (`Body::charge`) and, with room behind
//! its end, what it would be charged with that room written (`Body::charge_with`): a write into the room takes nothing
//! more of the quota. Who changes the content reserves the difference first. The account of a file without a name is
//! closed: nothing written there is charged. Accounts are not stored.

use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use pxfs_base::lock;

use super::body::Body;
use super::preallocation::Preallocation;
use super::quota::{Quota, SharedQuota, signed};

/// What a file that is written in parts is charged beyond the whole at most: the run of its first hole.
const BETWEEN: u64 = 24;

/// What an account holds of the quota, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// What the content is charged.
    pub(super) charged: u64,
    /// What is kept beside it.
    pub(super) kept: u64,
}

impl Held {
    pub(super) fn total(self) -> u64 {
        self.charged.saturating_add(self.kept)
    }
}

/// What an operation leaves in an account.
pub(super) struct Due {
    pub(super) held: Held,
    /// The room, where it is another one then.
    pub(super) room: Option<Preallocation>,
}

impl Due {
    /// The charge alone: what room there was has ended.
    pub(super) fn without_room(charged: u64) -> Self {
        Self {
            held: Held { charged, kept: 0 },
            room: Some(Preallocation::default()),
        }
    }

    /// After `written` was written, which may be empty, the room staying as it is.
    pub(super) fn written(body: &Body, room: &Preallocation, written: &Range<u64>) -> Self {
        Self {
            held: held(body, room, written),
            room: None,
        }
    }

    /// As [`Due::written`], with `room` from then on.
    pub(super) fn with_room(body: &Body, room: Preallocation, written: &Range<u64>) -> Self {
        Self {
            held: held(body, &room, written),
            room: Some(room),
        }
    }
}

fn held(body: &Body, room: &Preallocation, written: &Range<u64>) -> Held {
    let charged = match written.is_empty() {
        true => body.charge(),
        false => body.charge_after_write(written.start, written.end - written.start),
    };
    let kept = match room.is_empty() {
        true => 0,
        false => (body.charge_with(room, written) + BETWEEN).saturating_sub(charged),
    };
    Held { charged, kept }
}

/// What one file is charged, and keeps.
#[derive(Debug)]
pub(crate) struct Account {
    pub(super) held: Held,
    pub(super) room: Preallocation,
    is_closed: bool,
}

impl Account {
    /// That of a file whose content is charged so many bytes.
    pub(crate) fn of(charged: u64) -> Self {
        Self {
            held: Held { charged, kept: 0 },
            room: Preallocation::default(),
            is_closed: false,
        }
    }

    /// That of a file without a name.
    pub(super) fn closed() -> Self {
        Self {
            is_closed: true,
            ..Self::of(0)
        }
    }

    /// Whether nothing is charged any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// The account of a file. It belongs to the quota's lock: who has that locked reaches it, and waits for nobody.
pub(crate) struct AccountCell {
    account: Mutex<Account>,
    /// [`Account::held`]'s charge; [`CLOSED`] without a name.
    charged: AtomicU64,
    keeps_room: AtomicBool,
}

const CLOSED: u64 = u64::MAX;

impl AccountCell {
    pub(super) fn new(account: Account) -> Self {
        let charged = AtomicU64::new(account.held.charged);
        Self {
            account: Mutex::new(account),
            charged,
            keeps_room: AtomicBool::new(false),
        }
    }

    /// The account, with the quota locked.
    pub(super) fn with(&self, _quota: &Quota) -> AccountMut<'_> {
        AccountMut {
            account: lock(&self.account),
            cell: self,
        }
    }

    /// Whether it keeps room for bytes that are to come. True of who alone uses the file.
    pub(super) fn keeps_room(&self) -> bool {
        self.keeps_room.load(Ordering::Acquire)
    }

    /// Whether `body` is charged what it is to be charged. True of who has it locked.
    pub(super) fn is_charged_as(&self, body: &Body) -> bool {
        let charged = self.charged.load(Ordering::Acquire);
        charged == CLOSED || charged == body.charge()
    }
}

/// An account, to change.
pub(super) struct AccountMut<'a> {
    account: MutexGuard<'a, Account>,
    cell: &'a AccountCell,
}

impl Deref for AccountMut<'_> {
    type Target = Account;

    fn deref(&self) -> &Account {
        &self.account
    }
}

impl DerefMut for AccountMut<'_> {
    fn deref_mut(&mut self) -> &mut Account {
        &mut self.account
    }
}

impl Drop for AccountMut<'_> {
    fn drop(&mut self) {
        let charged = match self.account.is_closed {
            true => CLOSED,
            false => self.account.held.charged,
        };
        let keeps_room = !self.account.room.is_empty() || self.account.held.kept > 0;
        self.cell.charged.store(charged, Ordering::Release);
        self.cell.keeps_room.store(keeps_room, Ordering::Release);
    }
}

impl SharedQuota {
    /// The last name of a file is gone: what was held for it is free.
    pub(super) fn close_account(&self, cell: &AccountCell) {
        let mut quota = self.lock();
        let then = std::mem::replace(&mut *cell.with(&quota), Account::closed()).held;
        quota.adjust(-signed(then.charged));
        quota.give_room_back(then.kept);
    }

    /// Another tree has taken the place of the one that the account was of, with what that is charged.
    pub(super) fn replace_account(&self, cell: &AccountCell, new: Account) {
        let mut quota = self.lock();
        let then = std::mem::replace(&mut *cell.with(&quota), new).held;
        quota.give_room_back(then.kept);
    }

    /// Nobody uses the file any more: the room that it keeps ends.
    pub(super) fn end_room(&self, cell: &AccountCell) {
        let mut quota = self.lock();
        let kept = {
            let mut account = cell.with(&quota);
            account.room = Preallocation::default();
            std::mem::take(&mut account.held.kept)
        };
        quota.give_room_back(kept);
    }
}
