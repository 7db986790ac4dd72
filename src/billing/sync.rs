//! `pxfs sync`: has the oracle report a token's usage on chain, if that can succeed.
//!
//! Invariant: it sends and spends nothing unless the oracle would read the newest valid document;
//! it waits for an open request instead of paying again; for a mounted token `status` shows each
//! failure until a sync lands.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::answer::json;
use super::gas;
use crate::billing::legacy;
use crate::chain::dialect::Dialect;
use crate::chain::oracle::{Finding, Reader, Refusal};
use crate::chain::transact::{SyncRequest, sync_calldata, sync_fee};
use crate::chain::{Accounting, TokenInfo};
use crate::contracts;
use crate::contracts::Parts;
use crate::contracts::first_document;
use crate::contracts::token_status;
use crate::exit::{Exit, Failure, fail};
use crate::node;
use crate::rpc::guard::{Guard, Reach};
use crate::status::{CallAnswer, SyncAnswer, SyncOffer};
use crate::tokens::MountedToken;
use crate::tokens::Tokens;
use crate::types::TokenId;

/// How long a sync may take: the contract renews a request after 5 minutes.
const LIMIT: Duration = Duration::from_secs(token_status::REQUEST_TIMEOUT_S);
/// An embedded chain's oracle is in this process.
const EMBEDDED_LIMIT: Duration = Duration::from_secs(60);
/// Gateways cache for minutes, so they always lag behind a busy drive. An automatic sync, which is
/// for the deadline, accepts documents up to this age.
const RECENT_S: u64 = 900;

/// Who requests a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A user: what is stored now must count.
    User,
    /// `--auto-sync`: the deadline must be kept.
    Itself,
}

pub(crate) struct Asked {
    pub(crate) answer: SyncAnswer,
    request: SyncRequest,
}

/// The same for a mounted token; `status` shows the outcome.
///
/// # Errors
/// As [`sync`].
pub(crate) async fn of_mount(
    parts: &Arc<Parts>,
    tokens: &Tokens,
    token: TokenId,
    by: By,
    wait: bool,
) -> anyhow::Result<Value> {
    // A missing account is not the token's failure.
    parts.chain.account("sync")?;
    legacy::refuse_by_issuer(parts)?;
    let parts = &match is_agreed(parts) {
        true => Arc::clone(parts),
        false => Arc::new(parts.unasked()),
    };
    if by == By::User {
        tokens.open_for_command(token).await;
    }
    let Some(live) = tokens.get(token) else {
        if parts.chain.ledger.dialect().await? != Dialect::PxSync {
            return json(legacy::renew(parts, token).await?);
        }
        return json(sync(parts, token, wait).await?);
    };
    let done = of_live(parts, &live, by, wait).await;
    let fault = done.as_ref().err().map(|error| format!("sync: {error:#}"));
    live.set_sync_error(fault);
    done
}

async fn of_live(
    parts: &Arc<Parts>,
    live: &Arc<MountedToken>,
    by: By,
    wait: bool,
) -> anyhow::Result<Value> {
    let token = live.key.token.token;
    if parts.chain.ledger.known_accounting() == Some(Accounting::Additive) {
        return json(legacy::report(parts, live).await?);
    }
    let asked = ask(parts, token, live.published_sequence(), by).await?;
    if wait {
        return json(land(parts, asked).await?);
    }
    let answer = json(&asked.answer)?;
    let (parts, live) = (Arc::clone(parts), Arc::clone(live));
    tokio::spawn(async move {
        if let Err(error) = land(&parts, asked).await {
            tracing::warn!(%token, "sync: {error:#}");
            live.set_sync_error(Some(format!("sync: {error:#}")));
        }
    });
    Ok(answer)
}

/// Whether a user saw the cost. If not, fee and gas share a limit, because the contract's owner may
/// set any fee.
fn is_agreed(parts: &Parts) -> bool {
    let account = parts.chain.account.as_ref();
    account.is_some_and(|account| account.transactor.is_agreed())
}

/// Syncs a token through the oracle, after publishing a missing first document.
///
/// # Errors
/// No such token, not ours, no name key; the oracle would not find the newest document; the chain's or
/// the oracle's.
pub(crate) async fn sync(parts: &Parts, token: TokenId, wait: bool) -> anyhow::Result<SyncAnswer> {
    let unasked;
    let parts = match is_agreed(parts) {
        true => parts,
        false => {
            unasked = parts.unasked();
            &unasked
        }
    };
    let asked = ask(parts, token, None, By::User).await?;
    match wait {
        true => land(parts, asked).await,
        false => Ok(asked.answer),
    }
}

/// What a sync of `token`, mounted or not, would send now.
///
/// # Errors
/// As [`sync`]; nothing is sent.
pub(crate) async fn offer(
    parts: &Parts,
    live: Option<&MountedToken>,
    token: TokenId,
) -> anyhow::Result<SyncOffer> {
    let chain = &parts.chain;
    if chain.ledger.dialect().await? != Dialect::PxSync {
        return legacy::offer(parts, live, token).await;
    }
    let Some(account) = &chain.account else {
        parts.owned(token).await?;
        let fee = sync_fee(&chain.endpoint, chain.contract, token).await?;
        let data = sync_calldata(token);
        let call = CallAnswer::new(chain.chain_id, chain.contract, fee, &data);
        return Ok(SyncOffer::of(call));
    };
    let sender = &account.transactor;
    let published = live.and_then(MountedToken::published_sequence);
    let open = prepare(parts, token, published, By::User).await?;
    if let Some(request) = open {
        let note = format!(
            "a request is open already, in transaction {}: it is waited for, and nothing is paid",
            request.mined.transaction
        );
        return Ok(SyncOffer {
            call: None,
            charges: Vec::new(),
            note: Some(note),
        });
    }
    let fee = sender.sync_fee(chain.contract, token).await?;
    let call = gas::call_of(parts, "sync", (sync_calldata(token), fee)).await?;
    let asked_s = parts.owned(token).await?.sync_asked_s;
    let note = asked_s.map(|asked_s| {
        let at = token_status::instant(asked_s).map_or_else(String::new, |at| format!(" of {at}"));
        format!("the request{at} is open, and its fee is paid; asked again, it costs gas alone")
    });
    Ok(SyncOffer {
        call: Some(call),
        charges: Vec::new(),
        note,
    })
}

/// Requests it, unless the oracle would not find `published`, or something newer.
async fn ask(
    parts: &Parts,
    token: TokenId,
    published: Option<u64>,
    by: By,
) -> anyhow::Result<Asked> {
    let chain = &parts.chain;
    let request = match prepare(parts, token, published, by).await? {
        Some(open) => {
            tracing::info!(%token, "sync: a request is open, and waited for");
            open
        }
        None => {
            let sender = &chain.account("sync")?.transactor;
            sender.sync(chain.contract, token).await?
        }
    };
    Ok(Asked::new(request, chain.chain_id))
}

/// Everything before paying; an open request that is still awaited is not paid again.
async fn prepare(
    parts: &Parts,
    token: TokenId,
    published: Option<u64>,
    by: By,
) -> anyhow::Result<Option<SyncRequest>> {
    let chain = &parts.chain;
    let info = parts.owned(token).await?;
    let sender = &chain.account("sync")?.transactor;
    contracts::require_approval(chain, "sync", token).await?;
    let Some(name) = &info.name else {
        fail!(
            Token,
            "{}",
            token_status::unregistered(&chain.called.token(token))
        );
    };
    if let Some(asked_s) = info.sync_asked_s {
        let now_s = chain.ledger.snapshot().await?.timestamp_s;
        let open = match now_s < asked_s.saturating_add(token_status::REQUEST_TIMEOUT_S) {
            true => sender.open_sync(chain.contract, token).await?,
            false => None,
        };
        if open.is_some() {
            return Ok(open);
        }
    }
    if let Some((_, key)) = parts.find_key(name).await? {
        let volume = parts.volume_key(&info);
        first_document::publish(&parts.node, &*parts.clock, volume, &info, &key).await?;
    }
    foresee(parts, &info, name, published, by).await?;
    Ok(None)
}

impl Asked {
    fn new(request: SyncRequest, chain_id: u64) -> Self {
        Self {
            answer: SyncAnswer {
                token: request.token,
                transaction: request.mined.transaction.to_string(),
                request: Some(request.request.to_string()),
                usage: None,
                sequence: None,
                chain_id,
                paid_wei: request.mined.paid.map(|wei| wei.to_string()),
            },
            request,
        }
    }
}

async fn land(parts: &Parts, asked: Asked) -> anyhow::Result<SyncAnswer> {
    let chain = &parts.chain;
    let limit = match chain.embedded {
        Some(_) => EMBEDDED_LIMIT,
        None => LIMIT,
    };
    let landed = chain
        .account("sync")?
        .transactor
        .wait_synced(chain.contract, &asked.request, limit)
        .await?;
    Ok(SyncAnswer {
        usage: Some(landed.usage_bytes),
        sequence: Some(landed.sequence),
        ..asked.answer
    })
}

/// Fails if an oracle reading where we do would not find the newest document.
async fn foresee(
    parts: &Parts,
    info: &TokenInfo,
    name: &str,
    published: Option<u64>,
    by: By,
) -> anyhow::Result<()> {
    let volume = parts.volume_key(info);
    let own = Reader {
        sources: vec![parts.own_documents()],
    };
    // Whoever configured them here vouches for them.
    let gateways = match parts.config.operate {
        // The oracle is here, and reads the node.
        true => Vec::new(),
        false => node::gateways(&parts.config, &Guard::new(Reach::Everywhere)?)?,
    };
    let from_gateways = !gateways.is_empty();
    let gateways = Reader { sources: gateways };
    let (own, found) = match from_gateways {
        true => tokio::join!(own.read(&volume, name), gateways.read(&volume, name)),
        false => {
            let own = own.read(&volume, name).await;
            (own.clone(), own)
        }
    };
    let newest = own.ok().map(|own| own.sequence).max(published);
    let now_s = parts.clock.wall_s();
    let recent = |found: &Finding| now_s.saturating_sub(found.updated_s) < RECENT_S;
    let newest = match (&found, by) {
        (Ok(found), By::Itself) if recent(found) => None,
        _ => newest,
    };
    match unfit(info, newest, &found, from_gateways) {
        None => Ok(()),
        Some(why) => Err(Failure::new(
            Exit::Oracle,
            format!(
                "token {} is not synced, and nothing was spent: {why}",
                parts.chain.called.token(info.id)
            ),
        )
        .into()),
    }
}

/// Why the oracle's document is not worth paying for, and the remedy.
fn unfit(
    info: &TokenInfo,
    newest: Option<u64>,
    found: &Result<Finding, Refusal>,
    from_gateways: bool,
) -> Option<String> {
    let place = match from_gateways {
        true => "the gateways",
        false => "the node",
    };
    let found = match found {
        Ok(found) => found,
        Err(refusal) => {
            let fix = match (refusal.code, from_gateways) {
                (1 | 2, _) => "publish by `pxfs flush`, wait a few minutes, and try again",
                (3 | 4, _) => {
                    "publish by `pxfs flush`; if that does not help, name another gateway by --node gateway=URL"
                }
                (5, _) => "its name key is none: `pxfs register` gives it another",
                (_, true) => "try again when one answers, or name another by --node gateway=URL",
                (_, false) => "try again when it answers",
            };
            let why = &refusal.why;
            return Some(format!(
                "{place}: no usage metadata that the oracle would take ({why}): {fix}"
            ));
        }
    };
    let (sequence, chain) = (found.sequence, info.sequence.unwrap_or(0));
    let newest = newest.unwrap_or(0).max(chain);
    if sequence < newest {
        let fix = match from_gateways {
            true => {
                "they may need minutes to see it: try again then, or name another by --node gateway=URL"
            }
            false => "look whether the node has lost its name record, `pxfs flush`, and try again",
        };
        return Some(format!(
            "{place}: the usage metadata has sequence {sequence}, and {newest} is the newest: {fix}"
        ));
    }
    let other_root = info.sequence == Some(sequence) && found.root != info.root;
    other_root.then(|| {
        format!(
            "the chain has another root at sequence {sequence}: another machine wrote; publish something, and try again"
        )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy::primitives::{Address, B256};
    use bytes::Bytes;

    use super::*;

    pub(crate) fn info(sequence: Option<u64>) -> TokenInfo {
        TokenInfo {
            id: TokenId::from(7),
            owner: Address::ZERO,
            package: String::new(),
            epoch: 1,
            name: None,
            size_bytes: 0,
            usage_bytes: 0,
            uploads_left: None,
            accounting: Accounting::Absolute,
            last_sync_s: 0,
            sync_window_s: 0,
            sequence,
            root: sequence.map(|_| B256::repeat_byte(1)),
            anchor: None,
            sync_asked_s: None,
        }
    }

    fn found(sequence: u64) -> Result<Finding, Refusal> {
        Ok(Finding {
            document: Bytes::new(),
            usage_bytes: 0,
            sequence,
            updated_s: 0,
            root: Some(B256::repeat_byte(1)),
        })
    }

    #[test]
    fn only_the_newest_document_is_worth_a_fee() {
        let why = |chain, newest, sequence| unfit(&info(chain), newest, &found(sequence), true);
        assert_eq!(why(None, None, 0), None);
        assert_eq!(why(Some(5), Some(6), 6), None);
        assert_eq!(why(Some(5), Some(5), 5), None);
        // The gateway is ahead: another machine published.
        assert_eq!(why(Some(5), Some(6), 7), None);
        for (chain, newest, sequence) in [
            (Some(5), None, 4),
            (None, Some(6), 5),
            (Some(9), Some(6), 7),
        ] {
            let why = why(chain, newest, sequence).unwrap();
            assert!(why.contains("try again"), "{why}");
        }
        let mut other = info(Some(5));
        other.root = None;
        assert!(unfit(&other, None, &found(5), true).is_some());
    }

    #[test]
    fn each_reason_that_the_oracle_would_give_says_what_to_do() {
        for code in 1..=6 {
            for from_gateways in [true, false] {
                let refusal = Refusal {
                    code,
                    why: "WHY".to_owned(),
                    again: false,
                };
                let why = unfit(&info(None), None, &Err(refusal), from_gateways).unwrap();
                assert!(why.contains("WHY"), "{why}");
                let told = ["again", "gateway=URL", "pxfs register"];
                assert!(told.iter().any(|words| why.contains(words)), "{why}");
            }
        }
    }
}
