//! Whether the account that signs may act on tokens of another owner (ERC-721: `isApprovedForAll`, `getApproved`).
//!
//! Invariant: what was seen at the mount holds as long as it: an approval that is withdrawn is seen where the
//! contract refuses. Nothing is asked where the owner signs. Called by `tokens`, `operate` and `sync`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use alloy::primitives::Address;

use pxfs_base::lock;

use super::chain::ChainParts;
use crate::chain::{ChainError, approval};
use crate::exit::{Exit, Failure};
use crate::types::TokenId;

/// What is known of one contract's approvals.
#[derive(Default)]
pub(crate) struct Approvals {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of all tokens of the owner.
    all: Option<bool>,
    /// Of one token.
    each: BTreeMap<TokenId, bool>,
}

impl Approvals {
    /// Why nothing may be done with `token`, if so.
    ///
    /// # Errors
    /// The chain's.
    pub(crate) async fn refusal(
        &self,
        chain: &ChainParts,
        token: TokenId,
    ) -> Result<Option<String>, ChainError> {
        let Some(operator) = chain.operates() else {
            return Ok(None);
        };
        match self.asked(chain, operator, token).await {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(missing(chain, operator, token))),
            // What was written here is not to be hidden for that: the contract refuses where it is missing.
            Err(fault) if fault.is_silence() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn asked(
        &self,
        chain: &ChainParts,
        operator: Address,
        token: TokenId,
    ) -> Result<bool, ChainError> {
        let (all, one) = {
            let known = lock(&self.known);
            (known.all, known.each.get(&token).copied())
        };
        let all = match all {
            Some(all) => all,
            None => {
                let (at, contract) = (&chain.endpoint, chain.contract);
                let all = approval::of_all(at, contract, chain.owner, operator).await?;
                lock(&self.known).all = Some(all);
                all
            }
        };
        match one {
            _ if all => Ok(true),
            Some(one) => Ok(one),
            None => {
                let (at, contract) = (&chain.endpoint, chain.contract);
                let one = approval::of_one(at, contract, token).await? == operator;
                lock(&self.known).each.insert(token, one);
                Ok(one)
            }
        }
    }
}

/// What is said where `operator` may not act on `token`.
fn missing(chain: &ChainParts, operator: Address, token: TokenId) -> String {
    format!(
        "{owner} has not approved {operator} for token {called}: have it send `approve({operator}, {token})` or `setApprovalForAll({operator}, true)` to {contract}, then mount again",
        owner = chain.owner,
        called = chain.called.token(token),
        contract = chain.contract
    )
}

/// Refuses to do `what` where the owner of `token` has not approved who signs.
///
/// # Errors
/// It has not; the chain's.
pub(crate) async fn require_approval(
    chain: &ChainParts,
    what: &str,
    token: TokenId,
) -> anyhow::Result<()> {
    match Approvals::default().refusal(chain, token).await? {
        None => Ok(()),
        Some(why) => Err(Failure::new(Exit::Token, format!("{what}: {why}")).into()),
    }
}
