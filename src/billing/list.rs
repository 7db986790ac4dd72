//! Lists packages and tokens.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use crate::chain::ChainError;
use crate::contracts::Parts;
use crate::contracts::token_status;
use crate::exit::Failure;
use crate::status::{LeftOut, PackageAnswer, TokenStatus, TokensAnswer};

/// A contract's limit for listing tokens, which may need a log search.
const LIST: Duration = Duration::from_secs(60);

/// Packages on sale.
///
/// # Errors
/// The chain's.
pub(crate) async fn packages(parts: &Parts) -> anyhow::Result<Vec<PackageAnswer>> {
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

/// The owned tokens of all contracts, queried concurrently; a chain that does not answer affects no other.
///
/// # Errors
/// The first one's, if no chain answers.
pub(crate) async fn list(all: &[Arc<Parts>]) -> anyhow::Result<TokensAnswer> {
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

/// The owned tokens by the chain.
///
/// # Errors
/// The chain's.
pub(crate) async fn tokens(parts: &Parts) -> anyhow::Result<Vec<TokenStatus>> {
    let snapshot = parts.chain.ledger.snapshot().await?;
    Ok(snapshot
        .tokens
        .iter()
        .map(|token| token_status::describe(parts, token, snapshot.timestamp_s))
        .collect())
}
