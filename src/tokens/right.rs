//! What a check of the chain grants a volume, and what the wallet may do with it.

use crate::names::key::NameKey;
use crate::status::State;

/// What a check grants the volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// All that it says.
    All,
    /// The same, unless the volume stores what a later block said.
    Later,
    /// Nothing: an earlier process stored it. The volume's own allowance holds.
    Nothing,
}

#[derive(Clone, Debug)]
pub(crate) enum Right {
    /// The name is ours.
    Ours(NameKey),
    /// We lack the name's key, so the token is read-only: the name, and why.
    Watched(String, String),
    /// No name, another's name, or another's token: why nothing can be written.
    None(State, String),
}

impl Right {
    /// Why nothing can be written, if so.
    pub(crate) fn barred(&self) -> Option<(State, String)> {
        match self {
            Self::Ours(_) => None,
            Self::Watched(_, reason) => Some((State::ReadOnly, reason.clone())),
            Self::None(state, reason) => Some((*state, reason.clone())),
        }
    }
}
