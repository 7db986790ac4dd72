//! Exactly once: the next step for a transaction that must take effect once and no more.
//!
//! A purpose (a charge, a sync) is signed at a nonce of the account. The chain takes one
//! transaction per nonce, so the signed bytes take effect at most once, however often they are
//! sent; the danger is a second nonce. That is used only if a final block shows another transaction
//! at the first. Everything else (a crash, lost or stale answers, a reorganisation, too low a fee,
//! another program on the account) ends in sending the bytes again, replacing them at the same
//! nonce, or waiting.
//!
//! Invariant: of everything signed for a purpose, only one nonce can still be mined. The caller
//! stores an [`Entry`] durably before its first bytes leave, and each later signature before that
//! leaves. Pure: it never asks the chain. A [`shelf`] stores entries.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256};

pub mod shelf;
#[cfg(test)]
mod tests;

/// What must happen once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// The contract; `None` to create one.
    pub to: Option<Address>,
    /// The call.
    pub data: Bytes,
    /// Wei that go with it.
    pub value: U256,
    /// Whether the call was made for one nonce (name keys are) and is meaningless at another.
    pub bound: bool,
}

/// One signed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Its hash.
    pub hash: B256,
    /// Its bytes, as they are sent.
    pub raw: Bytes,
    /// The most gas it may use.
    pub gas: u64,
    /// The most for one gas, wei.
    pub max_fee: u128,
    /// The miner's part of that, wei; `None` without EIP-1559.
    pub tip: Option<u128>,
}

/// All signatures at one nonce: the first, and replacements with higher fees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// The account's nonce.
    pub nonce: u64,
    /// The newest block at signing: the nonce is free in it.
    pub since: u64,
    /// In signing order; never empty.
    pub signed: Vec<Signed>,
}

/// What is stored before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What must happen.
    pub purpose: Purpose,
    /// Its nonces; only the last can still be mined.
    pub tries: Vec<Try>,
}

/// Who used a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// The purpose: our bytes, or the same call to the same contract with the same value under
    /// another hash (sped up by a wallet); and whether it took effect.
    Same {
        /// False if reverted.
        success: bool,
    },
    /// Something else.
    Other,
}

/// A view of the chain. It may be old or incomplete, but must have been true once, and what it
/// calls final must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The account's next nonce in the newest block.
    pub next: u64,
    /// Who has the last try's nonce, and whether that block is final; `None` if nobody, or unknown.
    pub taken: Option<(Taker, bool)>,
    /// Whether it happened at a foreign nonce (another program charges the same commit); `None` if
    /// unknown. Counts only if another has the nonce.
    pub elsewhere: Option<bool>,
    /// The chain's price for one gas, wei.
    pub fee: u128,
    /// Its gas now; 0 if unknown.
    pub gas: u64,
    /// Time since the last try was last sent.
    pub waited: Duration,
}

/// Limits of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long to wait after sending.
    pub patience: Duration,
    /// The most for one gas, wei.
    pub max_fee: u128,
    /// Whether to sign at another nonce if another transaction took its own: yes for the daemon's
    /// debts. A command's may have been cancelled in another wallet, so it is not repeated.
    pub again: bool,
}

/// Why nothing is done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Sent a moment ago.
    Sent,
    /// The block may be replaced.
    NotFinal,
    /// The nonce is taken, by whom is unknown.
    Unseen,
    /// Gas costs more than allowed.
    FeeCap,
}

/// A final outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Happened,
    /// It was mined and reverted. The caller may begin anew.
    Refused,
    /// Another transaction has its bound nonce: it will never happen.
    Lost,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sign at this nonce, store as a new try, send.
    Sign {
        /// The nonce.
        nonce: u64,
    },
    /// Send the last try's newest bytes again.
    Send,
    /// Sign again at the same nonce for at least this fee and the present gas, store in the last
    /// try, send.
    Replace {
        /// Wei for one gas.
        max_fee: u128,
    },
    /// Send nothing of value to ourselves at this nonce, free again before ours (or another entry's
    /// bytes, if it is theirs).
    Fill {
        /// The nonce.
        nonce: u64,
    },
    /// Check again later.
    Wait(Wait),
    /// It is over.
    Over(Outcome),
}

impl Entry {
    /// A purpose without signatures.
    #[must_use]
    pub fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            tries: Vec::new(),
        }
    }

    /// The next step, given a view of the chain.
    #[must_use]
    pub fn next(&self, look: &Look, rules: &Rules) -> Step {
        let Some(last) = self.tries.last() else {
            return Step::Sign { nonce: look.next };
        };
        match look.taken {
            Some((Taker::Same { success }, true)) => {
                return Step::Over(match success {
                    true => Outcome::Happened,
                    false => Outcome::Refused,
                });
            }
            // The only safe case for a second nonce: nothing signed for the first can be mined.
            Some((Taker::Other, true)) => {
                return match look.elsewhere {
                    _ if self.purpose.bound || !rules.again => Step::Over(Outcome::Lost),
                    None => Step::Wait(Wait::Unseen),
                    Some(true) => Step::Over(Outcome::Happened),
                    Some(false) => Step::Sign {
                        nonce: look.next.max(last.nonce + 1),
                    },
                };
            }
            Some((_, false)) => return Step::Wait(Wait::NotFinal),
            None if look.next > last.nonce => return Step::Wait(Wait::Unseen),
            None => {}
        }
        if look.waited < rules.patience {
            return Step::Wait(Wait::Sent);
        }
        if look.next < last.nonce {
            // Earlier nonces are free again, and ours cannot be mined without them.
            return Step::Fill { nonce: look.next };
        }
        let newest = last.signed.last();
        let (paid, limit) = newest.map_or((0, 0), |signed| (signed.max_fee, signed.gas));
        // With too little gas it is never mined, or for nothing.
        if look.fee <= paid && look.gas <= limit {
            return Step::Send;
        }
        // Nodes want a tenth more for a replacement; an eighth is enough.
        let max_fee = look.fee.max(paid + paid / 8 + 1);
        match max_fee <= rules.max_fee {
            true => Step::Replace { max_fee },
            false => Step::Wait(Wait::FeeCap),
        }
    }
}
