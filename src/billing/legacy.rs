//! Commands on `px-v1` and `px-v2`: mint, and renew the last update if the owner may.
//!
//! Invariant: charges are left to the volume's owner (`charges`).

use alloy::primitives::{B256, U256};
use serde_json::Value;

use super::answer::json;
use super::gas::{call_of, with_gas};
use super::mint::refuse_to_mint;
use super::refusals::hint;
use crate::billing::charges;
use crate::chain::dialect::Dialect;
use crate::chain::ledger::Package;
use crate::chain::transact::{mint_bare_calldata, update_calldata};
use crate::chain::{Accounting, ChainError};
use crate::contracts;
use crate::contracts::Parts;
use crate::contracts::token_status;
use crate::control::Request;
use crate::exit::fail;
use crate::status::{CallAnswer, MintAnswer, SyncAnswer, SyncOffer};
use crate::tokens::MountedToken;
use crate::types::TokenId;

/// Answers a request that these contracts need handled differently; `None` for all others.
///
/// # Errors
/// Those of the operation.
pub(crate) async fn answer(parts: &Parts, request: &Request) -> anyhow::Result<Option<Value>> {
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
        Request::SyncOffer { ref token } => json(offer(parts, None, token.id).await?)?,
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
    refuse_to_mint(chain)?;
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
        chain_id: chain.chain_id,
        paid_wei: minted.mined.paid.map(|wei| wei.to_string()),
    })
}

async fn mint_call(parts: &Parts, package: u64) -> anyhow::Result<CallAnswer> {
    let chain = &parts.chain;
    let price = on_sale(parts, package).await?.price;
    let data = mint_bare_calldata(package);
    let call = CallAnswer::new(chain.chain_id, chain.contract, price, &data);
    Ok(with_gas(parts, call).await)
}

/// Reports what is published and unreported of a mounted token; if nothing is, renews its last update.
///
/// # Errors
/// As [`answer`].
pub(crate) async fn report(parts: &Parts, live: &MountedToken) -> anyhow::Result<SyncAnswer> {
    let token = live.key.token.token;
    // Charges are unattended: the user agreed to what comes on top.
    let sender = parts.chain.account("sync")?.transactor.unasked();
    let charged = charges::have_charged(parts, &sender, live).await;
    match charged.map_err(|fault| refused(parts, token, fault))? {
        Some(transaction) => {
            sender.confirm(transaction).await?;
            reported(parts, token, (transaction, None)).await
        }
        None => renew(parts, token).await,
    }
}

/// What a sync would send beside the charges, which are automatic.
///
/// # Errors
/// As [`answer`], and if the contract would refuse it.
pub(crate) async fn offer(
    parts: &Parts,
    live: Option<&MountedToken>,
    token: TokenId,
) -> anyhow::Result<SyncOffer> {
    let chain = &parts.chain;
    parts.owned(token).await?;
    refuse_by_issuer(parts)?;
    if live.is_some_and(|live| !live.volume.charges().is_empty()) {
        let note = "what is published is charged, which the daemon does by itself: nothing is paid on top of that";
        return Ok(SyncOffer {
            call: None,
            charges: live
                .map(|live| charges::calls(parts, live))
                .unwrap_or_default(),
            note: Some(note.to_owned()),
        });
    }
    let data = update_calldata(chain.dialect(), token, 0, 0);
    if chain.account.is_none() {
        let call = CallAnswer::new(chain.chain_id, chain.contract, U256::ZERO, &data);
        return Ok(SyncOffer::of(call));
    }
    let call = call_of(parts, "sync", (data, U256::ZERO)).await;
    Ok(SyncOffer {
        call: Some(call.map_err(|error| match error.downcast::<ChainError>() {
            Ok(fault) => refused(parts, token, fault),
            Err(error) => error,
        })?),
        charges: Vec::new(),
        note: None,
    })
}

/// Renews the last update without a charge.
pub(crate) async fn renew(parts: &Parts, token: TokenId) -> anyhow::Result<SyncAnswer> {
    let chain = &parts.chain;
    parts.owned(token).await?;
    refuse_by_issuer(parts)?;
    contracts::require_approval(chain, "sync", token).await?;
    let sent = chain
        .account("sync")?
        .transactor
        .renew(chain.contract, chain.dialect(), token)
        .await;
    let mined = sent.map_err(|fault| refused(parts, token, fault))?;
    reported(parts, token, (mined.transaction, mined.paid)).await
}

/// Fails if the contract lets only its own owner report.
///
/// # Errors
/// It does.
pub(crate) fn refuse_by_issuer(parts: &Parts) -> anyhow::Result<()> {
    match parts.chain.ledger.known_accounting() {
        Some(Accounting::ByIssuer) => fail!(Failure, "sync: {}", token_status::BY_ISSUER),
        _ => Ok(()),
    }
}

/// Adds the remedy if the contract refused.
fn refused(parts: &Parts, token: TokenId, fault: ChainError) -> anyhow::Error {
    let called = parts.chain.called.token(token);
    let hint = hint(&called, &fault);
    let error = anyhow::Error::from(fault);
    match hint {
        Some(hint) => error.context(format!("token {called} cannot be renewed: {hint}")),
        None => error,
    }
}

/// What the chain has after `transaction`, at this cost.
async fn reported(
    parts: &Parts,
    token: TokenId,
    (transaction, paid): (B256, Option<U256>),
) -> anyhow::Result<SyncAnswer> {
    let info = parts.chain.ledger.token(token).await?;
    Ok(SyncAnswer {
        token,
        transaction: transaction.to_string(),
        request: None,
        usage: Some(info.usage_bytes),
        sequence: None,
        chain_id: parts.chain.chain_id,
        paid_wei: paid.map(|wei| wei.to_string()),
    })
}
