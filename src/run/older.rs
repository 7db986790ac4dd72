//! What commands do on contracts of `px-v1` and `px-v2`: mint, and renew the time of the last update.
//!
//! Invariant: nothing here charges a token by itself: that is done where its volume is (`charges`).
//! Called by `operate` and `sync`.

use alloy::primitives::B256;
use serde_json::Value;

use super::buy::with_gas;
use super::charges;
use super::live::Live;
use super::operate::{json, owned};
use super::parts::Parts;
use crate::chain::dialect::Dialect;
use crate::chain::ledger::Package;
use crate::chain::transact::mint_bare_calldata;
use crate::chain::{ChainError, Ledger};
use crate::cli::exit::fail;
use crate::control::Request;
use crate::status::{CallAnswer, MintAnswer, SyncAnswer};
use crate::types::TokenId;

/// Answers a request that these contracts want done in another way; `None` for all others.
///
/// # Errors
/// Those of the operation.
pub(super) async fn answer(parts: &Parts, request: &Request) -> anyhow::Result<Option<Value>> {
    let dialect = parts.chain.ledger.dialect().await?;
    if dialect == Dialect::PxSync {
        return Ok(None);
    }
    Ok(Some(match *request {
        Request::Mint { package, print, .. } => match print {
            true => json(mint_call(parts, package).await?)?,
            false => json(mint(parts, package).await?)?,
        },
        Request::Register { .. } => fail!(
            Failure,
            "register: contract {} ({}) keeps no name keys: there is nothing to register",
            parts.chain.contract,
            dialect.name()
        ),
        Request::Sync { ref token, .. } => json(renew(parts, token.id).await?)?,
        _ => return Ok(None),
    }))
}

async fn on_sale(parts: &Parts, package: u64) -> anyhow::Result<Package> {
    let all = parts.chain.ledger.packages().await?;
    let mut on_sale = all.into_iter().filter(|known| known.on_sale);
    match on_sale.find(|known| known.id == package) {
        Some(found) => Ok(found),
        None => fail!(
            Token,
            "package {package} cannot be minted: `pxfs packages` shows those that can"
        ),
    }
}

async fn mint(parts: &Parts, package: u64) -> anyhow::Result<MintAnswer> {
    let chain = &parts.chain;
    let price = on_sale(parts, package).await?.price;
    let minted = chain
        .account("mint")?
        .transactor
        .mint_for(chain.contract, package, price)
        .await?;
    Ok(MintAnswer {
        token: minted.token,
        directory: chain.called.token(minted.token),
        contract: format!("{:#x}", chain.contract),
        transaction: minted.mined.transaction.to_string(),
        name: None,
    })
}

async fn mint_call(parts: &Parts, package: u64) -> anyhow::Result<CallAnswer> {
    let chain = &parts.chain;
    let call = CallAnswer {
        chain_id: chain.chain_id,
        to: chain.contract.to_string(),
        value_wei: on_sale(parts, package).await?.price.to_string(),
        data: mint_bare_calldata(package).to_string(),
        nonce: chain.account("mint")?.transactor.next_nonce().await?,
        name: None,
        account: None,
        gas: None,
        gas_cost_wei: None,
    };
    Ok(with_gas(parts, call).await)
}

/// Reports what is published of a token of a mount and not reported yet; where that is nothing, renews the time of
/// its last update.
///
/// # Errors
/// As [`answer`].
pub(super) async fn report(parts: &Parts, live: &Live) -> anyhow::Result<SyncAnswer> {
    let token = live.key.token.token;
    let sender = &parts.chain.account("sync")?.transactor;
    let charged = charges::have_charged(parts, sender, live).await;
    match charged.map_err(|fault| refused(parts, token, fault))? {
        Some(transaction) => reported(parts, token, transaction).await,
        None => renew(parts, token).await,
    }
}

/// Charges nothing: the time of the last update is renewed.
async fn renew(parts: &Parts, token: TokenId) -> anyhow::Result<SyncAnswer> {
    let chain = &parts.chain;
    owned(parts, token).await?;
    let sent = chain
        .account("sync")?
        .transactor
        .renew(chain.contract, chain.dialect(), token)
        .await;
    let mined = sent.map_err(|fault| refused(parts, token, fault))?;
    reported(parts, token, mined.transaction).await
}

/// With what to do where it was the contract that refused.
fn refused(parts: &Parts, token: TokenId, fault: ChainError) -> anyhow::Error {
    let is_refusal = matches!(fault, ChainError::Reverted(_));
    let error = anyhow::Error::from(fault);
    match is_refusal {
        true => error.context(format!(
            "token {} cannot be renewed: buy uploads or a larger package, or ask the \
             contract's owner to unlock it (`unlockUploading`)",
            parts.chain.called.token(token)
        )),
        false => error,
    }
}

/// What the chain has now, by `transaction`.
async fn reported(parts: &Parts, token: TokenId, transaction: B256) -> anyhow::Result<SyncAnswer> {
    let info = parts.chain.ledger.token(token).await?;
    Ok(SyncAnswer {
        token,
        transaction: transaction.to_string(),
        request: None,
        usage: Some(info.usage_bytes),
        sequence: None,
    })
}
