//! What commands do on the chain: list, mint, register, sync, let time pass.
//!
//! Invariant: the same code whether the daemon is asked or the command holds the state folder
//! itself. Called by `handler` and by `cli`.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{B256, Bytes, U256};
use futures::future::join_all;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::chain::transact::{mint_calldata, register_calldata};
use crate::chain::{ChainError, TokenInfo};
use crate::contracts::first_document;
use crate::contracts::token_status;
use crate::contracts::{self, Account, ChainParts, Parts};
use crate::control::Request;
use crate::exit::{Failure, fail};
use crate::names::key::NameKey;
use crate::run::buy;
use crate::run::older;
use crate::run::sync;
use crate::status::{
    AdvanceAnswer, CallAnswer, LeftOut, MintAnswer, PackageAnswer, TokenStatus, TokensAnswer,
};
use crate::types::TokenId;

/// How long a list of tokens waits for one contract, whose logs may have to be searched.
const LIST: Duration = Duration::from_secs(60);

/// Answers a request that needs chains and the node alone, by the contract of `all` that it is about.
///
/// # Errors
/// Those of the operation; a request that needs a mount is refused.
pub async fn answer_of(all: &[Arc<Parts>], request: &Request) -> anyhow::Result<Value> {
    if *request == Request::Tokens {
        return json(list(all).await?);
    }
    answer(contracts::pick(all, request.subject())?, request).await
}

/// The same by one contract.
///
/// # Errors
/// As [`answer_of`].
pub async fn answer(parts: &Parts, request: &Request) -> anyhow::Result<Value> {
    if let Some(answer) = older::answer(parts, request).await? {
        return Ok(answer);
    }
    if let Some(answer) = buy::answer(parts, request).await? {
        return Ok(answer);
    }
    match *request {
        Request::Packages { .. } => json(packages(parts).await?),
        Request::Mint {
            package,
            print: true,
            ..
        } => json(mint_call(parts, package).await?),
        Request::Mint { package, .. } => json(mint(parts, package).await?),
        Request::Register {
            ref token,
            print,
            new_volume,
        } => {
            let token = token.id;
            let info = parts.owned(token).await?;
            if !new_volume {
                refuse_live(parts, &info).await?;
            }
            match print {
                true => json(register_call(parts, token).await?),
                false => json(register(parts, token).await?),
            }
        }
        Request::Sync { ref token, wait } => json(sync::sync(parts, token.id, wait).await?),
        Request::SyncOffer { ref token } => json(sync::offer(parts, None, token.id).await?),
        Request::Advance { seconds, .. } => {
            json(advance(parts, Duration::from_secs(seconds)).await?)
        }
        Request::Call {
            ref data,
            value_wei,
            ..
        } => json(call(parts, data.clone(), value_wei).await?),
        Request::Status
        | Request::Tokens
        | Request::Under { .. }
        | Request::UploadPackages { .. }
        | Request::Upgrade { .. }
        | Request::BuyUploads { .. }
        | Request::Get { .. }
        | Request::Share { .. }
        | Request::Fsck { .. }
        | Request::Export { .. }
        | Request::Import { .. }
        | Request::ImportTo { .. }
        | Request::Flush { .. }
        | Request::Umount { .. }
        | Request::Detach { .. } => {
            fail!(Mounted, "nothing is mounted")
        }
    }
}

pub(crate) fn json(answer: impl Serialize) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(answer)?)
}

/// What can be minted now.
///
/// # Errors
/// The chain's.
async fn packages(parts: &Parts) -> anyhow::Result<Vec<PackageAnswer>> {
    let packages = parts.chain.ledger.packages().await?;
    Ok(packages
        .into_iter()
        .filter(|package| package.on_sale)
        .map(|package| PackageAnswer {
            id: package.id,
            name: package.name,
            price_wei: package.price.to_string(),
            size_bytes: package.size_bytes,
            uploads: package.uploads,
            chain_id: parts.chain.chain_id,
        })
        .collect())
}

/// The owned tokens of all contracts. A chain that does not answer, which is asked beside the others, keeps
/// no other's from being listed.
///
/// # Errors
/// The first one's, where no chain answers.
async fn list(all: &[Arc<Parts>]) -> anyhow::Result<TokensAnswer> {
    let looks = all.iter().map(|parts| async {
        let late = || {
            let at = parts.chain.endpoint.label();
            ChainError::Transient(format!(
                "{at} has not told within {} s what the wallet owns: try again, and a search goes on from where it was",
                LIST.as_secs()
            ))
        };
        let looked = timeout(LIST, tokens(parts)).await;
        looked.unwrap_or_else(|_| Err(late().into()))
    });
    let mut listed = TokensAnswer {
        tokens: Vec::new(),
        left_out: Vec::new(),
    };
    let mut failed = Vec::new();
    for (parts, looked) in all.iter().zip(join_all(looks).await) {
        let error = match looked {
            Ok(tokens) => {
                listed.tokens.extend(tokens);
                continue;
            }
            Err(error) => error,
        };
        listed.left_out.push(LeftOut {
            chain_id: parts.chain.chain_id,
            contract: format!("{:#x}", parts.chain.contract),
            error: Failure::from_error(&error).message,
        });
        failed.push(error);
    }
    match failed.len() == all.len() {
        true => failed.into_iter().next().map_or(Ok(listed), Err),
        false => Ok(listed),
    }
}

/// The owned tokens as the chain knows them.
///
/// # Errors
/// The chain's.
async fn tokens(parts: &Parts) -> anyhow::Result<Vec<TokenStatus>> {
    let snapshot = parts.chain.ledger.snapshot().await?;
    Ok(snapshot
        .tokens
        .iter()
        .map(|token| token_status::describe(parts, token, snapshot.timestamp_s))
        .collect())
}

/// The transaction that [`mint`] would send.
///
/// # Errors
/// Unknown package; the chain's.
async fn mint_call(parts: &Parts, package: u64) -> anyhow::Result<CallAnswer> {
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
    Ok(buy::with_gas(parts, call).await)
}

/// Mints a token with a name key of this wallet, and publishes its first document.
///
/// # Errors
/// Unknown package, no money, or the chain's.
pub(crate) async fn mint(parts: &Parts, package: u64) -> anyhow::Result<MintAnswer> {
    let chain = &parts.chain;
    let account = chain.account("mint")?;
    refuse_to_mint(chain)?;
    // The nonce can be taken between the two calls, by the same wallet elsewhere.
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

/// Who acts for another owner would get the token itself.
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

/// The transaction that [`register`] would send.
///
/// # Errors
/// The chain's.
async fn register_call(parts: &Parts, token: TokenId) -> anyhow::Result<CallAnswer> {
    let chain = &parts.chain;
    let (key, nonce) = printed_key(parts, "register").await?;
    let name = key.name();
    let data = register_calldata(token, &name);
    let call = CallAnswer {
        nonce,
        name: Some(name),
        ..CallAnswer::new(chain.chain_id, chain.contract, U256::ZERO, &data)
    };
    Ok(buy::with_gas(parts, call).await)
}

/// The name key of a transaction that is sent elsewhere, and its nonce where the key belongs to one.
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

/// Another name key begins another epoch, and an empty volume with it: what the token holds now
/// is not taken along. A key that this wallet has is not lost, so that must be meant.
async fn refuse_live(parts: &Parts, info: &TokenInfo) -> anyhow::Result<()> {
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

/// Gives a token a name key of this wallet, and publishes its first document.
///
/// # Errors
/// The chain's.
async fn register(parts: &Parts, token: TokenId) -> anyhow::Result<MintAnswer> {
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

/// Sends a call to the token contract; the transaction.
///
/// # Errors
/// The chain's.
async fn call(parts: &Parts, data: Bytes, value_wei: U256) -> anyhow::Result<B256> {
    let chain = &parts.chain;
    let receipt = chain
        .account("dev call")?
        .transactor
        .send(Some(chain.contract), data, value_wei, None)
        .await?;
    Ok(receipt.transaction_hash)
}

/// Lets chain time pass.
///
/// # Errors
/// The chain is not one whose time can be moved.
async fn advance(parts: &Parts, step: Duration) -> anyhow::Result<AdvanceAnswer> {
    if step.as_secs() == 0 {
        fail!(
            Usage,
            "dev advance: chain time passes in whole seconds: give at least 1s"
        );
    }
    parts.chain.endpoint.advance(step).await?;
    let now_s = parts.chain.ledger.snapshot().await?.timestamp_s;
    match token_status::instant(now_s) {
        Some(chain_time) => Ok(AdvanceAnswer { chain_time }),
        None => fail!(
            Failure,
            "dev advance: chain time is beyond the calendar now"
        ),
    }
}

/// The name key for what is sent with this nonce.
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

/// The key that was sent: an earlier run may have sent it at another nonce, with a key of its own.
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

/// The transaction is mined: that the node does not answer now is no reason to say that it failed.
/// Every later start, and `sync`, tries again.
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
