//! Whether the signing account may act on another owner's tokens (ERC-721: `isApprovedForAll`,
//! `getApproved`).
//!
//! Invariant: what was seen at the mount holds for its duration; the contract itself refuses after
//! a withdrawal. If the owner signs, nothing is asked.

use std::collections::BTreeMap;
use std::sync::Mutex;

use alloy::primitives::Address;

use pxfs_base::lock;

use super::chain::ChainParts;
use crate::chain::{ChainError, approval};
use crate::exit::{Exit, Failure};
use crate::types::TokenId;

#[derive(Default)]
pub(crate) struct Approvals {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// For all of the owner's tokens.
    all: Option<bool>,
    /// For single tokens.
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
            // Local writes stay visible: without an approval the contract refuses.
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

/// The message if `operator` may not act on `token`.
fn missing(chain: &ChainParts, operator: Address, token: TokenId) -> String {
    format!(
        "{owner} has not approved {operator} for token {called}: have it send `approve({operator}, {token})` or `setApprovalForAll({operator}, true)` to {contract}, then mount again",
        owner = chain.owner,
        called = chain.called.token(token),
        contract = chain.contract
    )
}

/// Fails unless the owner of `token` has approved the signer for `what`.
///
/// # Errors
/// No approval; the chain's.
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
