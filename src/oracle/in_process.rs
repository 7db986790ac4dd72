//! The oracle operator in this process: always on an embedded chain, and over HTTP with
//! `--operate`.
//!
//! Invariant: it signs what it read from this process's own nodes (and named gateways), so that a
//! drive with a private node can sync at all. A contract that cannot be operated affects no other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::chain::ChainError;
use crate::chain::dialect::Dialect;
use crate::chain::oracle::{Documents, NodeDocuments, Operator, Reader};
use crate::chain::transact::Transactor;
use crate::contracts::{self, Parts};
use crate::exit::fail;
use crate::node;
use crate::oracle::process::{FIRST_LOOK, MAX_PER_TOKEN, MINED, place_of};
use crate::rpc::guard::{Guard, Reach};

/// How often to check an in-process chain for requests.
const EMBEDDED_PAUSE: Duration = Duration::from_millis(500);

/// The operator of the contract of `parts`, if this process is one: a task that never ends.
///
/// # Errors
/// Its signature does not suffice; the chain's, unless it just does not answer: then it starts later.
pub(crate) async fn begin(parts: &Arc<Parts>) -> anyhow::Result<Option<BoxFuture<'static, ()>>> {
    if parts.chain.embedded.is_some() {
        let embedded = embedded(parts).await?;
        return Ok(embedded.map(|operator| run(operator, EMBEDDED_PAUSE)));
    }
    if !parts.config.operate {
        return Ok(None);
    }
    let is_one_of_several = parts.chain.called.count > 1;
    let pause = parts.config.refresh;
    Ok(match over_http(parts).await {
        Ok(operator) => Some(run(operator, pause)),
        Err(error) if is_silence(&error) => {
            tracing::warn!("oracle: {error:#}: it begins when the chain answers");
            Some(Box::pin(begin_later(Arc::clone(parts))))
        }
        Err(error) if is_one_of_several => {
            let contract = parts.chain.contract;
            tracing::warn!("oracle: contract {contract} is not operated from here: {error:#}");
            None
        }
        Err(error) => return Err(error),
    })
}

/// Whether a command without a daemon must operate meanwhile: on an embedded chain nobody else
/// does, and over HTTP only a sync waits for it.
#[must_use]
pub fn is_wanted(parts: &Parts, is_sync: bool) -> bool {
    parts.chain.embedded.is_some() || is_sync
}

fn run(operator: Operator, pause: Duration) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        // Ends with the task: the next start answers an open request.
        let (_go_on, stop) = watch::channel(false);
        operator.run(pause, stop).await;
    })
}

async fn begin_later(parts: Arc<Parts>) {
    loop {
        tokio::time::sleep(parts.config.refresh).await;
        match over_http(&parts).await {
            Ok(operator) => return run(operator, parts.config.refresh).await,
            Err(error) if is_silence(&error) => {}
            Err(error) => return tracing::error!("oracle: {error:#}"),
        }
    }
}

fn is_silence(error: &anyhow::Error) -> bool {
    let fault = error.downcast_ref::<ChainError>();
    fault.is_some_and(ChainError::is_silence)
}

async fn embedded(parts: &Parts) -> anyhow::Result<Option<Operator>> {
    let Some(operator) = &parts.chain.operator else {
        return Ok(None);
    };
    let outbox = contracts::outbox(&parts.config.state_dir);
    // One account has one outbox.
    let account = parts.chain.account.as_ref();
    let payer = match account
        .filter(|account| account.transactor.address() == operator.wallet.address())
    {
        Some(account) => account.transactor.clone(),
        None => Transactor::new(parts.chain.endpoint.clone(), &operator.wallet).kept_in(&outbox),
    };
    let reader = Reader {
        sources: vec![parts.own_documents()],
    };
    let operator = Operator::new(
        payer,
        parts.chain.contract,
        &[&operator.wallet],
        reader,
        operator.from_block,
    );
    operator.check().await.context("oracle")?;
    Ok(Some(operator))
}

/// The drive's own wallet as the operator. It shares the wallet's outbox on this chain, and the
/// place of `pxfs oracle` with this state folder.
async fn over_http(parts: &Parts) -> anyhow::Result<Operator> {
    let chain = &parts.chain;
    let account = chain.account("--operate")?;
    let dialect = chain.ledger.dialect().await?;
    if dialect != Dialect::PxSync {
        fail!(
            Usage,
            "--operate: contract {} speaks {}, which asks no oracle: leave it out",
            chain.contract,
            dialect.name()
        );
    }
    let payer = account.transactor.clone().with_limit(MINED).unasked();
    let from_block = chain.endpoint.height().await?.saturating_sub(FIRST_LOOK);
    let place = place_of(&parts.config.state_dir, chain.chain_id, &chain.contract);
    let reader = Reader {
        sources: sources(parts)?,
    };
    let Some(wallet) = &account.wallet else {
        fail!(
            Usage,
            "--operate: an operator signs reports by its key, and a signer is named in its place: give --wallet, or leave it out"
        );
    };
    let operator = Operator::new(payer, chain.contract, &[wallet], reader, from_block)
        .with_budget(MAX_PER_TOKEN)
        .kept_in(place.clone())
        .with_context(|| format!("{}: remove it to begin anew", place.display()))?;
    operator.check().await.context("--operate")?;
    tracing::info!(
        "oracle: {} is the operator of contract {} on chain {}, from block {} on",
        wallet.address(),
        chain.contract,
        chain.chain_id,
        operator.next_block()
    );
    Ok(operator)
}

/// All nodes and gateways of the mount. Whoever configured them vouches for them.
pub(crate) fn sources(parts: &Parts) -> anyhow::Result<Vec<Arc<dyn Documents>>> {
    let mut sources = vec![parts.own_documents()];
    for other in &parts.node.others {
        sources.push(Arc::new(NodeDocuments {
            names: Arc::clone(&other.names),
            blocks: Arc::clone(&parts.node.reads),
            clock: Arc::clone(&parts.clock),
        }));
    }
    let guard = Guard::new(Reach::Everywhere)?;
    sources.extend(node::gateways(&parts.config, &guard)?);
    Ok(sources)
}
