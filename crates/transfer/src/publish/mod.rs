//! Publishing: what was written here goes to the node, and the token's name points at it.
//!
//! The way of a commit: cut (one instant of the tree) → build and upload the blocks that differ →
//! pin the new root → usage metadata → name record → settle (what was published is clean here) →
//! the old root into grace. Root, document and record are durable here before the first of them
//! leaves, so that a crash is followed by exactly these. Nothing is named before it is pinned, and
//! nothing settles on a promise: the record is read back.
//!
//! [`Publisher`] is what others see of it; `worker` decides when; `commit` does it; `ahead` sends chunks of large files before; `sample` looks whether the node still has it, `heal`
//! mends and marks what it has lost; `head` knows the last commit and what the name and
//! the chain say of it. Called by `run`.

mod ahead;
mod allowance;
mod attempt;
mod bootstrap;
mod build;
mod charged;
mod commit;
mod confirm;
mod elsewhere;
mod follow;
mod gone;
mod grace;
mod head;
mod heal;
mod judge;
mod key;
mod naming;
mod past;
mod pending;
mod queue;
mod receipt;
mod sample;
mod state;
mod unfinished;
mod upload;
mod whole;
mod worker;
mod writers;

#[cfg(test)]
mod tests;

use crate::fs::FsError;
use crate::names::NameError;
use crate::pack::PackError;
use crate::store::StoreError;

pub use allowance::allowance;
pub use bootstrap::{Allowed, Bootstrap, bootstrap, recent};
pub use commit::{Context, Node, Other};
pub use confirm::is_ours;
pub use follow::{follow, watch};
pub use key::Key;
pub use queue::{Progress, PublishStatus, Publisher, Timing, is_idle, standing};

/// Why a commit did not come to its end. Nothing is lost by any of these: it is tried again.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// The storage node.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The name store.
    #[error("{0}")]
    Name(#[from] NameError),
    /// Local state.
    #[error("{0}")]
    Local(#[from] FsError),
    /// The volume format refused what it was given.
    #[error("volume format: {0}")]
    Pack(#[from] PackError),
    /// Another machine moved the name on.
    #[error("conflict: {0}")]
    Conflict(String),
    /// What the name points at cannot be believed.
    #[error("refused: {0}")]
    Refused(String),
    /// What was published is not to be found.
    #[error("{0}")]
    Missing(String),
    /// Mapped pages took more than the quota has.
    #[error("over the quota: {0}")]
    OverQuota(String),
    /// The node did not do what it acknowledged.
    #[error("storage node: {0}")]
    Unverified(String),
    /// All else is published: files that the node has lost blocks of, and that were written to.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The publisher has ended.
    #[error("pxfs is stopping: not everything is published")]
    Stopped,
}

impl PublishError {
    /// Whether it is the node, or the name that it keeps, that does not do what it is asked for.
    #[must_use]
    pub fn is_of_node(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Name(_) | Self::Unverified(_))
    }

    /// Whether nothing can be published while it lasts, and no other state of a token tells of it.
    #[must_use]
    pub fn keeps_all_back(&self) -> bool {
        !matches!(
            self,
            Self::Conflict(_) | Self::Damaged(_) | Self::OverQuota(_) | Self::Stopped
        )
    }

    /// Whether another try may help before somebody has done something about it.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => !matches!(error, StoreError::Permanent(_)),
            Self::Name(error) => !matches!(error, NameError::Permanent(_)),
            // Room comes back, a cut is made anew, what was slow may be fast, what was lost is put
            // again where it can be.
            Self::Local(error) => matches!(
                error,
                FsError::NoRoom
                    | FsError::Invalid
                    | FsError::TimedOut
                    | FsError::NotLocal(_)
                    | FsError::Lost(_)
            ),
            Self::Unverified(_) | Self::Missing(_) => true,
            Self::Pack(_)
            | Self::Conflict(_)
            | Self::Refused(_)
            | Self::OverQuota(_)
            | Self::Damaged(_)
            | Self::Stopped => false,
        }
    }
}
