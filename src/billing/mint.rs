//! Mints tokens, and registers those minted elsewhere: each gets a name key of this wallet, and its
//! first document.

use alloy::primitives::U256;

use crate::chain::transact::{mint_calldata, register_calldata};
use crate::chain::{ChainError, TokenInfo};
use crate::contracts::first_document;
use crate::contracts::{Account, ChainParts, Parts};
use crate::exit::fail;
use crate::names::key::NameKey;
use crate::status::{CallAnswer, MintAnswer};
use crate::types::TokenId;

/// The transaction of [`mint`].
///
/// # Errors
/// Unknown package; the chain's.
pub(crate) async fn mint_call(parts: &Parts, package: u64) -> anyhow::Result<CallAnswer> {
    let chain = &parts.chain;
    let all = chain.ledger.packages().await?;
    let Some(found) = all.iter().find(|known| known.id == package) else {
        fail!(
            Token,
            "package {package} does not exist: `pxfs packages` shows what there is"
        );
    };
    let (key, nonce) = printed_key(parts, "mint").await?;
    let name = key.name();
    let data = mint_calldata(package, &name);
    let call = CallAnswer {
        nonce,
        name: Some(name),
        ..CallAnswer::new(chain.chain_id, chain.contract, found.price, &data)
    };
    Ok(super::gas::with_gas(parts, call).await)
}

/// Mints a token with a name key of this wallet, and publishes its first document.
///
/// # Errors
/// Unknown package, no money, or the chain's.
pub(crate) async fn mint(parts: &Parts, package: u64) -> anyhow::Result<MintAnswer> {
    let chain = &parts.chain;
    let account = chain.account("mint")?;
    refuse_to_mint(chain)?;
    // The same wallet elsewhere may take the nonce meanwhile.
    for attempt in 0.. {
        let nonce = account.transactor.next_nonce().await?;
        let key = fresh_key(parts, "mint", nonce).await?;
        let minted = account
            .transactor
            .mint(chain.contract, package, &key.name(), nonce)
            .await;
        let minted = match minted {
            Err(ChainError::Transient(_)) if attempt < 2 && moved_on(account, nonce).await => {
                continue;
            }
            other => other?,
        };
        let key = sent_key(parts, key, minted.nonce).await?;
        first_document(parts, minted.token, &key).await;
        return Ok(MintAnswer {
            token: minted.token,
            directory: chain.called.token(minted.token),
            contract: format!("{:#x}", chain.contract),
            transaction: minted.mined.transaction.to_string(),
            name: Some(key.name()),
            chain_id: chain.chain_id,
            paid_wei: minted.mined.paid.map(|wei| wei.to_string()),
        });
    }
    fail!(Transaction, "mint: the account is busy: try again")
}

/// An operator would get the token itself.
pub(crate) fn refuse_to_mint(chain: &ChainParts) -> anyhow::Result<()> {
    match chain.operates() {
        None => Ok(()),
        Some(operator) => fail!(
            Usage,
            "mint: the token would be {operator}'s, who signs, and not {0}'s: leave out --owner, or have {0} send what --print shows",
            chain.owner
        ),
    }
}

/// The transaction of [`register`].
///
/// # Errors
/// The chain's.
pub(crate) async fn register_call(parts: &Parts, token: TokenId) -> anyhow::Result<CallAnswer> {
    let chain = &parts.chain;
    let (key, nonce) = printed_key(parts, "register").await?;
    let name = key.name();
    let data = register_calldata(token, &name);
    let call = CallAnswer {
        nonce,
        name: Some(name),
        ..CallAnswer::new(chain.chain_id, chain.contract, U256::ZERO, &data)
    };
    Ok(super::gas::with_gas(parts, call).await)
}

/// Gives a token a name key of this wallet, and publishes its first document.
///
/// # Errors
/// The chain's.
pub(crate) async fn register(parts: &Parts, token: TokenId) -> anyhow::Result<MintAnswer> {
    let chain = &parts.chain;
    let account = chain.account("register")?;
    if let Some(operator) = chain.operates() {
        fail!(
            Usage,
            "register: the contract takes a name key from a token's owner alone, and {operator} signs here: have {} send what --print shows",
            chain.owner
        );
    }
    for attempt in 0.. {
        let nonce = account.transactor.next_nonce().await?;
        let key = fresh_key(parts, "register", nonce).await?;
        let sent = account
            .transactor
            .register(chain.contract, token, &key.name(), nonce)
            .await;
        let registered = match sent {
            Err(ChainError::Transient(_)) if attempt < 2 && moved_on(account, nonce).await => {
                continue;
            }
            other => other?,
        };
        let key = sent_key(parts, key, registered.nonce).await?;
        first_document(parts, token, &key).await;
        return Ok(MintAnswer {
            token,
            directory: chain.called.token(token),
            contract: format!("{:#x}", chain.contract),
            transaction: registered.mined.transaction.to_string(),
            name: Some(key.name()),
            chain_id: chain.chain_id,
            paid_wei: registered.mined.paid.map(|wei| wei.to_string()),
        });
    }
    fail!(Transaction, "register: the account is busy: try again")
}

/// A new name key starts a new epoch with an empty volume, without the token's present files. If
/// this wallet has the present key, that must be intended.
pub(crate) async fn refuse_live(parts: &Parts, info: &TokenInfo) -> anyhow::Result<()> {
    if let Some(name) = &info.name
        && parts.find_key(name).await?.is_some()
    {
        fail!(
            Failure,
            "register: token {} has the name key {name} of this wallet, and its volume hangs on \
             it: copy what it holds to another token, then say --new-volume to begin an empty one",
            parts.chain.called.token(info.id)
        );
    }
    Ok(())
}

/// The name key of a transaction sent elsewhere, and the nonce it belongs to, if any.
async fn printed_key(parts: &Parts, what: &str) -> anyhow::Result<(NameKey, Option<u64>)> {
    let nonce = match &parts.chain.account {
        Some(account) if parts.chain.names.are_derived() => {
            Some(account.transactor.next_nonce().await?)
        }
        _ => None,
    };
    let key = fresh_key(parts, what, nonce.unwrap_or_default()).await?;
    Ok((key, nonce))
}

/// The name key for a transaction with this nonce.
async fn fresh_key(parts: &Parts, what: &str, nonce: u64) -> anyhow::Result<NameKey> {
    let chain = &parts.chain;
    let taken: Vec<String> = match chain.names.are_derived() {
        true => Vec::new(),
        false => {
            let snapshot = chain.ledger.snapshot().await?;
            let names = snapshot.tokens.into_iter().filter_map(|token| token.name);
            names.collect()
        }
    };
    let is_taken = |name: &str| taken.iter().any(|taken| taken == name);
    let fresh = chain
        .names
        .fresh(chain.chain_id, &chain.contract, nonce, is_taken);
    match fresh {
        Some(key) => Ok(key),
        None => fail!(
            Usage,
            "{what}: there is no name key that no token has yet: give one by --name-key FILE (64 hex digits)"
        ),
    }
}

/// The key in use: an earlier run may have sent another nonce's.
async fn sent_key(parts: &Parts, key: NameKey, nonce: u64) -> anyhow::Result<NameKey> {
    match parts.chain.names.are_derived() {
        true => fresh_key(parts, "name", nonce).await,
        false => Ok(key),
    }
}

/// Whether the account has sent something since its next nonce was `nonce`.
async fn moved_on(account: &Account, nonce: u64) -> bool {
    let next = account.transactor.next_nonce().await;
    next.is_ok_and(|next| next != nonce)
}

/// Succeeds even if the node does not answer, because the transaction is mined. Later starts, and
/// `sync`, retry.
async fn first_document(parts: &Parts, token: TokenId, key: &NameKey) {
    let published = async {
        let info = parts.chain.ledger.token(token).await?;
        if info.name.as_ref() != Some(&key.name()) {
            anyhow::bail!("the chain has another name key of it");
        }
        let volume = parts.volume_key(&info);
        first_document::publish(&parts.node, &*parts.clock, volume, &info, key).await
    };
    if let Err(error) = published.await {
        tracing::warn!(%token, "the first document is not published yet: {error:#}");
    }
}
