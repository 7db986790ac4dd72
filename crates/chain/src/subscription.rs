//! Chain announcements over a WebSocket, so that nobody polls.
//!
//! Two subscriptions share a socket. The contract's logs show that a token of the wallet changed.
//! The heads show that the socket is alive: if the chain has grown without one, the socket is
//! dropped.
//!
//! Invariant: [`Announced::is_live`] is true only while both subscriptions are open on a server of
//! the right chain, and each reopening counts as a change, because events in between went unheard.

use std::time::Duration;

use alloy::rpc::types::Log;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use self::socket::{Notice, Socket};
use super::http::SocketUrl;
use super::ledger::ContractLedger;
use pxfs_base::backoff::Backoff;

mod socket;
#[cfg(test)]
mod tests;

/// What has been announced so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Whether announcements are arriving.
    pub is_live: bool,
    /// Changes so far.
    pub changes: u64,
    /// The newest block with a change.
    pub block: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// First and longest pause before reconnecting.
    retry_min: Duration,
    retry_max: Duration,
    /// Shortest and longest wait for a head.
    head_min: Duration,
    head_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            head_min: Duration::from_secs(10),
            head_max: Duration::from_secs(60),
        }
    }
}

/// Missed block times after which a socket is checked.
const MISSED_HEADS: u32 = 4;

/// A subscription to changes of a wallet's tokens; reconnects until dropped.
#[derive(Debug)]
pub struct Subscription {
    announced: watch::Receiver<Announced>,
    task: JoinHandle<()>,
}

impl Subscription {
    /// Subscribes to what `ledger` shows; `None` without a WebSocket endpoint.
    #[must_use]
    pub fn open(ledger: &ContractLedger) -> Option<Self> {
        Self::at_pace(ledger, Pace::default())
    }

    fn at_pace(ledger: &ContractLedger, pace: Pace) -> Option<Self> {
        if ledger.endpoint().sockets().is_empty() {
            return None;
        }
        let (told, announced) = watch::channel(Announced::default());
        let ledger = ledger.clone();
        let task = tokio::spawn(async move { follow(&ledger, pace, &told).await });
        Some(Self { announced, task })
    }

    /// What has been announced so far.
    #[must_use]
    pub fn announced(&self) -> Announced {
        *self.announced.borrow()
    }

    /// Returns after a new announcement, or when the socket came or went.
    pub async fn changed(&mut self) -> Announced {
        if self.announced.changed().await.is_err() {
            // Only a panic ends the task: then the caller's timer does the work.
            std::future::pending::<()>().await;
        }
        *self.announced.borrow_and_update()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects to one server after another, for ever.
async fn follow(ledger: &ContractLedger, pace: Pace, announced: &watch::Sender<Announced>) {
    let mut backoff = Backoff::new(pace.retry_min, pace.retry_max);
    let mut pause = pace.retry_min;
    let mut is_reported = false;
    for url in ledger.endpoint().sockets().iter().cycle() {
        let label = url.label();
        let fault = match subscribe(ledger, url).await {
            Ok(opened) => {
                tracing::debug!("chain: {label} announces changes");
                announced.send_modify(|all| {
                    all.is_live = true;
                    all.changes += 1;
                });
                is_reported = false;
                let opened_at = Instant::now();
                let fault = listen(ledger, opened, pace, announced).await;
                announced.send_modify(|all| all.is_live = false);
                // Backs off from a server that drops each connection at once.
                if opened_at.elapsed() > pause {
                    backoff.reset();
                }
                fault
            }
            Err(fault) => fault,
        };
        if !is_reported {
            is_reported = true;
            tracing::warn!(
                "chain: {label} {fault}: the chain is polled until a socket is open again"
            );
        }
        pause = backoff.pause();
        sleep(pause).await;
    }
}

/// A socket with both subscriptions, and the newest block before them.
async fn subscribe(ledger: &ContractLedger, url: &SocketUrl) -> Result<(Socket, u64), String> {
    let chain = ledger.endpoint().chain_id().await;
    let chain = chain.map_err(|fault| fault.to_string())?;
    let mut socket = Socket::connect(url).await?;
    let other = socket.number("eth_chainId").await?;
    if other != chain {
        return Err(format!("is of chain {other}, not of {chain}"));
    }
    let head = socket.number("eth_blockNumber").await?;
    socket.subscribe_to_heads().await?;
    socket.subscribe_to_logs(&ledger.changes()).await?;
    Ok((socket, head))
}

/// Forwards the socket's notices until it breaks or falls silent; returns why.
async fn listen(
    ledger: &ContractLedger,
    (mut socket, mut head): (Socket, u64),
    pace: Pace,
    announced: &watch::Sender<Announced>,
) -> String {
    let opened_at = Instant::now();
    let mut heads = 0;
    // The newest block by others, since the socket is silent.
    let mut known = head;
    loop {
        let patience = match opened_at.elapsed().checked_div(heads) {
            Some(block_time) => (block_time * MISSED_HEADS).clamp(pace.head_min, pace.head_max),
            None => pace.head_max,
        };
        match timeout(patience, socket.notice()).await {
            Ok(Ok(Notice::Head(number))) => {
                head = number;
                heads += 1;
            }
            Ok(Ok(Notice::Log(log))) if ledger.concerns(&log) => {
                announced.send_modify(|all| note(all, &log));
            }
            Ok(Ok(Notice::Log(_))) => {}
            Ok(Err(fault)) => return fault,
            Err(_) if known > head => {
                return format!("has not said a word about block {known}");
            }
            Err(_) => known = ledger.endpoint().height().await.unwrap_or(known),
        }
    }
}

fn note(all: &mut Announced, log: &Log) {
    all.changes += 1;
    all.block = all.block.max(log.block_number.unwrap_or_default());
}
