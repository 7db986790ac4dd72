//! The key of a token's name, as far as it is here.
//!
//! Invariant: nothing is signed for a name whose key is not here. Called by `commit`, `head` and `naming`.

use super::PublishError;
use crate::names::key::NameKey;

/// A token's name, with its key where it is ours.
#[derive(Clone, Debug)]
pub enum Key {
    /// Commits can be made.
    Ours(NameKey),
    /// Another's name: what it points at can be read and followed.
    Theirs(String),
}

impl Key {
    /// The name, as it stands on chain.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Ours(key) => key.name(),
            Self::Theirs(name) => name.clone(),
        }
    }

    /// The key that signs.
    ///
    /// # Errors
    /// [`PublishError::Refused`]: it is not here.
    pub(super) fn ours(&self) -> Result<&NameKey, PublishError> {
        match self {
            Self::Ours(key) => Ok(key),
            Self::Theirs(name) => Err(PublishError::Refused(format!(
                "the key of name {name} is not here"
            ))),
        }
    }
}
