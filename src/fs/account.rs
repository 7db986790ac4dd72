//! What the quota holds for one file in use.
//!
//! Invariant: while nobody changes the file it is what its content is charged (`Body::charge`); who changes
//! the content books the difference here before. The account of a file without a name is closed: all of it
//! was given back, and nothing that is written there is charged. It is locked for a moment and never across
//! a disk, so a name can be removed while somebody writes below it. Called by `booking` and `remove`.

use super::files::File;
use super::volume::{Volume, lock, signed};

/// What one file is charged.
#[derive(Debug)]
pub(crate) struct Account {
    pub(super) charged: u64,
    is_closed: bool,
}

impl Account {
    /// That of a file whose content is charged so many bytes.
    pub(crate) fn of(charged: u64) -> Self {
        Self {
            charged,
            is_closed: false,
        }
    }

    /// That of a file without a name.
    pub(super) fn closed() -> Self {
        Self {
            charged: 0,
            is_closed: true,
        }
    }

    /// Whether nothing is charged any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }
}

impl Volume {
    /// The last name of a file is gone: what was charged for it is free.
    pub(super) fn close_account(&self, file: &File) {
        let mut account = lock(&file.account);
        let then = std::mem::replace(&mut *account, Account::closed());
        self.quota().adjust(-signed(then.charged));
    }
}
