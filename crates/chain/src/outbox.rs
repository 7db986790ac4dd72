//! Exactly once: what is to be done next about a transaction that must take effect once and no more.
//!
//! A purpose (a call that charges, or asks for a sync) is signed at a nonce of the account. The chain
//! lets one transaction have each nonce, so however often and wherever the signed bytes are sent, they
//! take effect at most once; the danger is a second nonce. It is used only when another transaction
//! holds the first one in a block that is final. All else (a crash, lost or stale answers, a
//! reorganisation, a fee that is too low, another program that sends from the same account) ends in
//! sending the same bytes again, in replacing them at the same nonce, or in waiting.
//!
//! Invariant: of all that was ever signed for a purpose, what could still be mined has one nonce.
//! The caller writes an [`Entry`] down, durably, before the first of its bytes leaves, and whatever it
//! signs for it later before that leaves. Pure: the chain is looked at elsewhere. Called by `transact`,
//! which keeps entries on a [`shelf`].

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
    /// Whether the call was made for one nonce (name keys are), and has no sense at another.
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
    /// The most it pays for one gas, in wei.
    pub max_fee: u128,
    /// What of that goes to whoever mines it, in wei; `None` on chains without EIP-1559.
    pub tip: Option<u128>,
}

/// What was signed for a purpose at one nonce: the first, and what replaced it by a higher fee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// The account's nonce.
    pub nonce: u64,
    /// The newest block when it was signed: nobody has the nonce in it.
    pub since: u64,
    /// In the order they were signed; at least one.
    pub signed: Vec<Signed>,
}

/// What is written down of a purpose before anything of it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What must happen.
    pub purpose: Purpose,
    /// The nonces that it had; only the last can still be mined.
    pub tries: Vec<Try>,
}

/// Who has a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// What was signed for the purpose, or the same call to the same contract with the same value,
    /// by whatever hash (a wallet that sped it up); and whether it took effect.
    Same {
        /// False when it was reverted.
        success: bool,
    },
    /// Something else.
    Other,
}

/// The chain as it was looked at. A look may be old, and may have seen too little: it must never
/// say more than was so at some time, and what it calls final must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The account's next nonce in the newest block.
    pub next: u64,
    /// Who has the nonce of the last try, and whether that block is final; `None` when nobody has,
    /// or when that could not be told.
    pub taken: Option<(Taker, bool)>,
    /// Whether it has happened at a nonce that is none of its own (another program that charges for
    /// the same commit); `None` when that could not be told. Counts where another has the nonce.
    pub elsewhere: Option<bool>,
    /// What the chain wants for one gas now, in wei.
    pub fee: u128,
    /// What it would use of gas now; 0 where that was not told.
    pub gas: u64,
    /// Time since the last try was last sent.
    pub waited: Duration,
}

/// What bounds the machine.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long what was sent is left alone.
    pub patience: Duration,
    /// The most that is paid for one gas, in wei.
    pub max_fee: u128,
    /// Whether it is signed at another nonce where another transaction has its own: so for what the daemon
    /// owes. What a command has sent may have been cancelled in another wallet, and is not sent again.
    pub again: bool,
}

/// Why nothing is done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It was sent a moment ago.
    Sent,
    /// The block is not final: it may be replaced.
    NotFinal,
    /// The nonce is taken, and by whom cannot be told now.
    Unseen,
    /// The chain wants more for one gas than may be paid.
    FeeCap,
}

/// How it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect, for good.
    Happened,
    /// It was mined and refused, for good: it took no effect. Whoever wants it still begins anew.
    Refused,
    /// Another transaction has the nonce that it was made for, for good: it will not happen.
    Lost,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sign the purpose at this nonce, write it down as a new try, send it.
    Sign {
        /// The nonce.
        nonce: u64,
    },
    /// Send the newest bytes of the last try again.
    Send,
    /// Sign the purpose at the same nonce for at least this fee, and the gas that it takes now, write it down in the
    /// last try, send.
    Replace {
        /// Wei for one gas.
        max_fee: u128,
    },
    /// Send nothing of worth to ourselves at this nonce, which lies before ours and is free again
    /// (unless it is another entry's: then that one is sent).
    Fill {
        /// The nonce.
        nonce: u64,
    },
    /// Look again later.
    Wait(Wait),
    /// It is over.
    Over(Outcome),
}

impl Entry {
    /// A purpose of which nothing is signed yet.
    #[must_use]
    pub fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            tries: Vec::new(),
        }
    }

    /// What to do, after a look at the chain.
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
            // The one case in which a second nonce is safe: nothing signed for the first can come.
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
            // What had the nonces before ours is gone, and ours cannot be mined without.
            return Step::Fill { nonce: look.next };
        }
        let newest = last.signed.last();
        let (paid, limit) = newest.map_or((0, 0), |signed| (signed.max_fee, signed.gas));
        // With less gas than it uses it is never mined, or mined for nothing.
        if look.fee <= paid && look.gas <= limit {
            return Step::Send;
        }
        // Nodes want a tenth more of what replaces another; an eighth is more than that.
        let max_fee = look.fee.max(paid + paid / 8 + 1);
        match max_fee <= rules.max_fee {
            true => Step::Replace { max_fee },
            false => Step::Wait(Wait::FeeCap),
        }
    }
}
