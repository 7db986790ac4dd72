//! What this wallet may do with a token, and the first document of one it may publish.
//!
//! Invariant: a name counts as this wallet's only if its derived key has that name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::contract_tokens::Tokens;
use crate::chain::{Accounting, TokenInfo};
use crate::contracts::ChainParts;
use crate::contracts::first_document;
use crate::contracts::token_status;
use crate::names::key::NameKey;
use crate::status::State;
use crate::tokens::right::Right;
use pxfs_base::lock;

/// How long publishing a first document may take before a retry.
const FIRST_DOCUMENT: Duration = Duration::from_secs(20);

impl Tokens {
    /// What this wallet may do with its own token.
    pub(super) async fn right(&self, token: &TokenInfo) -> anyhow::Result<Right> {
        let chain = &self.ground.parts.chain;
        if chain.account.is_none() {
            return watched(chain, token);
        }
        if let Some(why) = self.approvals.refusal(chain, token.id).await? {
            return Ok(match chain.name_of(token) {
                Some(name) => Right::Watched(name, why),
                None => Right::None(State::ReadOnly, why),
            });
        }
        if !token.accounting.has_names() {
            // The chain has no names: they follow from the tokens.
            return Ok(match chain.key_of_token(token.id) {
                Some(key) => Right::Ours(key),
                None => Right::None(State::ReadOnly, keyless(chain, token)),
            });
        }
        let Some(name) = &token.name else {
            return Ok(Right::None(
                State::Unregistered,
                token_status::unregistered(&chain.called.token(token.id)),
            ));
        };
        let known = lock(&self.keys).get(name).cloned();
        let key = match known {
            Some(key) => key,
            None => {
                let key = match self.recalled_key(name) {
                    Some(key) => Some(key),
                    None => self.ground.parts.find_key(name).await?,
                };
                lock(&self.keys).insert(name.clone(), key.clone());
                key
            }
        };
        Ok(match key {
            Some((_, key)) => Right::Ours(key),
            None => Right::None(State::ForeignKey, foreign(chain, token)),
        })
    }

    /// Finds the keys of all new names together: each of the wallet's keys is derived once.
    pub(super) async fn find_keys(&self, tokens: impl Iterator<Item = &TokenInfo>) {
        let names: BTreeSet<String> = {
            let keys = lock(&self.keys);
            let named = tokens.filter(|token| token.accounting.has_names());
            let names = named.filter_map(|token| token.name.as_ref());
            names
                .filter(|name| !keys.contains_key(*name))
                .cloned()
                .collect()
        };
        // A single one is found on demand.
        if names.len() < 2 {
            return;
        }
        match self.ground.parts.find_keys(names).await {
            Ok(found) => lock(&self.keys).extend(found),
            Err(error) => tracing::debug!("the keys of the tokens' names: {error:#}"),
        }
    }

    /// The key of `name`, if known to be this wallet's, without asking the chain.
    fn recalled_key(&self, name: &str) -> Option<(u64, NameKey)> {
        let index = *self.known.get()?.keys.get(name)?;
        let chain = &self.ground.parts.chain;
        let key = chain
            .names
            .derived(chain.chain_id, &chain.contract, index)?;
        (key.name() == name).then_some((index, key))
    }

    /// Publishes a missing first document, beside the pass.
    pub(super) fn document(&self, token: &TokenInfo, right: &Right) {
        let Right::Ours(key) = right else { return };
        if !token.accounting.has_names() {
            return;
        }
        let name = key.name();
        if !lock(&self.documented).insert(name.clone()) {
            return;
        }
        let (parts, documented) = (Arc::clone(&self.ground.parts), Arc::clone(&self.documented));
        let (token, key) = (token.clone(), key.clone());
        tokio::spawn(async move {
            let volume = parts.volume_key(&token);
            let publishing =
                first_document::publish(&parts.node, &*parts.clock, volume, &token, &key);
            let why = match timeout(FIRST_DOCUMENT, publishing).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "the node does not answer".to_owned(),
            };
            tracing::warn!(token = %token.id, "first document: {why}; it is tried again");
            lock(&documented).remove(&name);
        });
    }
}

/// Why a token without a name key cannot be written to.
fn keyless(chain: &ChainParts, token: &TokenInfo) -> String {
    match token.id.as_u64() {
        Some(_) => format!(
            "token {}: no key of its name is here: give --name-key FILE (64 hex digits), the same each time",
            chain.called.token(token.id)
        ),
        None => format!(
            "the number of token {} is too large for a name key",
            token.id
        ),
    }
}

/// The same if the name on chain is another's.
fn foreign(chain: &ChainParts, token: &TokenInfo) -> String {
    let called = chain.called.token(token.id);
    match chain.names.are_derived() {
        true => format!(
            "the name key of token {called} is not one of this wallet's: `pxfs register {called}` gives it one, and begins a new volume"
        ),
        false => format!(
            "the name key of token {called} is in no file here: give it by --name-key FILE, or have its owner send what `pxfs register {called} --print` shows, which begins a new volume"
        ),
    }
}

/// What can be done with a token if only the owner's address is known.
fn watched(chain: &ChainParts, token: &TokenInfo) -> anyhow::Result<Right> {
    let (owner, called) = (chain.owner, chain.called.token(token.id));
    if !token.accounting.has_names() && token.name.is_none() {
        return Err(token_status::unnamed(chain, &called).into());
    }
    // If each commit is charged, the writer has to pay too.
    let given = token.name.as_ref().and_then(|name| chain.names.given(name));
    if let Some(key) = given.filter(|_| token.accounting == Accounting::Absolute) {
        return Ok(Right::Ours(key));
    }
    Ok(match &token.name {
        Some(name) => Right::Watched(
            name.clone(),
            format!("{owner} is only watched, by its address: mount with --wallet to write"),
        ),
        None => Right::None(
            State::ReadOnly,
            format!(
                "{owner} is only watched, by its address, and token {called} has no name key yet: nothing is published of it"
            ),
        ),
    })
}
