//! What commands do on contracts of `px-v1` and `px-v2`: mint, and renew the time of the last update.
//!
//! Invariant: nothing here charges a token: that is done where its volume is (`charges`).
//! Called by `operate`.

use anyhow::Context;
use serde_json::Value;

use super::buy::with_gas;
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

/// Charges nothing: the time of the last update is renewed.
async fn renew(parts: &Parts, token: TokenId) -> anyhow::Result<SyncAnswer> {
    let chain = &parts.chain;
    owned(parts, token).await?;
    let sent = chain
        .account("sync")?
        .transactor
        .renew(chain.contract, chain.dialect(), token)
        .await;
    let mined = match sent {
        Err(refused @ ChainError::Reverted(_)) => {
            return Err(refused).context(format!(
                "token {} cannot be renewed: buy uploads or a larger package, or ask the \
                 contract's owner to unlock it (`unlockUploading`)",
                chain.called.token(token)
            ));
        }
        sent => sent?,
    };
    let info = chain.ledger.token(token).await?;
    Ok(SyncAnswer {
        token,
        transaction: mined.transaction.to_string(),
        request: None,
        usage: Some(info.usage_bytes),
        sequence: None,
    })
}
