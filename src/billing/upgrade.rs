//! Buys larger packages and upload units; and the cost of anything.
//!
//! Invariant: a purchase without effect is refused before signing.

use alloy::primitives::{Bytes, U256};
use serde_json::Value;

use super::answer::json;
use super::gas::with_gas;
use crate::chain::dialect::Dialect;
use crate::chain::transact::{upgrade_calldata, uploads_calldata};
use crate::contracts;
use crate::contracts::Parts;
use crate::control::Request;
use crate::exit::fail;
use crate::status::{CallAnswer, MintAnswer, UploadsAnswer};
use crate::types::TokenId;

struct Purchase {
    /// Identifies it, whatever its bytes.
    tag: String,
    data: Bytes,
    price: U256,
}

/// Answers such a request; `None` for all others.
///
/// # Errors
/// Those of the operation.
pub(crate) async fn answer(parts: &Parts, request: &Request) -> anyhow::Result<Option<Value>> {
    let (token, purchase, print) = match *request {
        Request::UploadPackages { .. } => return json(upload_packages(parts).await?).map(Some),
        Request::Upgrade {
            ref token,
            package,
            print,
        } => (token.id, larger(parts, token.id, package).await?, print),
        Request::BuyUploads {
            ref token,
            package,
            print,
        } => (token.id, uploads(parts, token.id, package).await?, print),
        _ => return Ok(None),
    };
    let chain = &parts.chain;
    if print {
        let (price, data) = (purchase.price, &purchase.data);
        let call = CallAnswer::new(chain.chain_id, chain.contract, price, data);
        return json(with_gas(parts, call).await).map(Some);
    }
    contracts::require_approval(chain, "upgrade", token).await?;
    let sender = &chain.account("upgrade")?.transactor;
    let info = sender
        .buy_for(chain.contract, purchase.tag, purchase.data, purchase.price)
        .await?;
    json(MintAnswer {
        token,
        directory: chain.called.token(token),
        contract: format!("{:#x}", chain.contract),
        transaction: info.transaction.to_string(),
        name: parts.owned(token).await?.name,
        chain_id: chain.chain_id,
        paid_wei: info.paid.map(|wei| wei.to_string()),
    })
    .map(Some)
}

async fn larger(parts: &Parts, token: TokenId, package: u64) -> anyhow::Result<Purchase> {
    let chain = &parts.chain;
    let info = parts.owned(token).await?;
    let all = chain.ledger.packages().await?;
    let Some(found) = all.into_iter().find(|known| known.id == package) else {
        fail!(
            Token,
            "upgrade: there is no package {package}: `pxfs packages` shows them"
        );
    };
    if found.size_bytes <= info.size_bytes {
        fail!(
            Token,
            "upgrade: package {package} ({} bytes) is not larger than what token {} has ({} bytes): `pxfs packages` shows what there is",
            found.size_bytes,
            chain.called.token(token),
            info.size_bytes
        );
    }
    if !found.on_sale {
        fail!(
            Token,
            "upgrade: package {package} is off sale: `pxfs packages` shows what is on sale"
        );
    }
    Ok(Purchase {
        tag: format!("upgrade {} {token} {package}", chain.contract),
        data: upgrade_calldata(token, package),
        price: found.price,
    })
}

async fn upload_packages(parts: &Parts) -> anyhow::Result<Vec<UploadsAnswer>> {
    let chain = &parts.chain;
    let dialect = chain.ledger.dialect().await?;
    if dialect != Dialect::PxV2 {
        fail!(
            Failure,
            "contract {} ({}) counts no uploads: there are none to buy",
            chain.contract,
            dialect.name()
        );
    }
    let all = chain.ledger.upload_packages().await?;
    let on_sale = all.into_iter().filter(|known| known.on_sale);
    let told = on_sale.map(|known| UploadsAnswer {
        id: known.id,
        name: known.name,
        price_wei: known.price.to_string(),
        uploads: known.uploads,
        chain_id: chain.chain_id,
    });
    Ok(told.collect())
}

async fn uploads(parts: &Parts, token: TokenId, package: u64) -> anyhow::Result<Purchase> {
    let chain = &parts.chain;
    let all = upload_packages(parts).await?;
    parts.owned(token).await?;
    let Some(found) = all.into_iter().find(|known| known.id == package) else {
        fail!(
            Token,
            "upgrade: there is no package {package} of uploads: `pxfs packages --uploads` shows them"
        );
    };
    Ok(Purchase {
        tag: format!("uploads {} {token} {package}", chain.contract),
        data: uploads_calldata(token, package),
        price: found.price_wei.parse()?,
    })
}
