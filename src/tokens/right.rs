//! What a look at the chain grants a volume, and what the wallet may do with it. Called by `live` and `tokens`.

use crate::names::key::NameKey;
use crate::status::State;

/// What the volumes are granted by a look at the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// What it says.
    All,
    /// The same, unless the volume keeps what a later block said.
    Later,
    /// Nothing: it is what an earlier look has kept. The volume's own allowance holds.
    Nothing,
}

/// What the wallet has to say of a token's name.
#[derive(Clone, Debug)]
pub(crate) enum Right {
    /// The name is ours.
    Ours(NameKey),
    /// The name is known without its key, and the token is read alone: the name, and why.
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
