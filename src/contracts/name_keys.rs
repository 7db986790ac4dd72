//! Finds the keys that sign tokens' names.

use std::collections::{BTreeSet, HashMap};

use super::chain::ChainParts;
use super::parts::Parts;
use crate::chain::TokenInfo;
use crate::names::key::NameKey;
use crate::types::TokenId;

impl ChainParts {
    /// The key of `token` on a contract without names; `None` if there is none, or its number is
    /// too large.
    pub(crate) fn key_of_token(&self, token: TokenId) -> Option<NameKey> {
        let (id, contract) = (self.chain_id, &self.contract);
        self.names.of_token(id, contract, token)
    }

    /// The name of `token`, by the contract, the wallet, or the watching user.
    pub(crate) fn name_of(&self, token: &TokenInfo) -> Option<String> {
        if token.accounting.has_names() || token.name.is_some() {
            return token.name.clone();
        }
        self.key_of_token(token.id).map(|key| key.name())
    }
}

impl Parts {
    /// The key of `name` if ours, with the account nonce it is derived from (0 if given).
    ///
    /// # Errors
    /// The chain's.
    pub(crate) async fn find_key(&self, name: &str) -> anyhow::Result<Option<(u64, NameKey)>> {
        let chain = &self.chain;
        let nonce = match (chain.names.given(name), &chain.account) {
            (Some(key), _) => return Ok(Some((0, key))),
            (None, Some(account)) if chain.names.derives() => {
                account.transactor.next_nonce().await?
            }
            (None, _) => return Ok(None),
        };
        let (names, name) = (chain.names.clone(), name.to_owned());
        let (chain_id, contract) = (chain.chain_id, chain.contract);
        let found =
            tokio::task::spawn_blocking(move || names.find(&name, chain_id, &contract, nonce));
        Ok(found.await?)
    }

    /// The keys of `names`; `None` for those not this wallet's.
    ///
    /// # Errors
    /// The chain's.
    pub(crate) async fn find_keys(
        &self,
        names: BTreeSet<String>,
    ) -> anyhow::Result<HashMap<String, Option<(u64, NameKey)>>> {
        let chain = &self.chain;
        // A watcher derives none; given ones are at hand.
        let Some(account) = chain.account.as_ref().filter(|_| chain.names.are_derived()) else {
            return Ok(HashMap::new());
        };
        let nonce = account.transactor.next_nonce().await?;
        let (keys, chain_id, contract) = (chain.names.clone(), chain.chain_id, chain.contract);
        let found =
            tokio::task::spawn_blocking(move || keys.find_all(names, chain_id, &contract, nonce));
        Ok(found.await?)
    }
}
