//! `pxfs oracle`: an operator in its own process, its peers, and the server for its statements.
//!
//! Invariant: the server only shows what is already signed: requests fetch, sign and send nothing.
//! Every connection is bounded in time and bytes, and so is their number.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::{Address, B256};
use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::chain::dialect::Dialect;
use crate::chain::endpoint::Endpoint;
use crate::chain::ledger::ContractLedger;
use crate::chain::oracle::agree::{Board, Colleagues, Statement};
use crate::chain::oracle::{Operator, Reader, Tell};
use crate::chain::transact::Transactor;
use crate::chain::wallet::Wallet;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::contracts::{self, ConnectedChain};
use crate::exit::fail;
use crate::node;
use crate::rpc::guard::{Guard, Prefix, Reach};
use crate::signals::Signals;
use pxfs_base::lock;

/// How far back a first start scans, blocks: requests are renewable after five minutes.
pub(crate) const FIRST_LOOK: u64 = 10_000;
/// How long to wait for a delivery before others are checked.
pub(crate) const MINED: Duration = Duration::from_secs(60);
/// Default deliveries paid per token in 24 hours.
pub const MAX_PER_TOKEN: usize = 24;
/// A peer's timeout and longest answer.
const PEER: Duration = Duration::from_secs(5);
const STATEMENT_BYTES: usize = 64 << 10;
/// The server's most connections, their time limit, and the longest question.
const GUESTS: usize = 64;
const GUEST: Duration = Duration::from_secs(5);
const QUESTION_BYTES: usize = 8 << 10;

/// An operator's own options.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The server's address.
    pub listen: Option<SocketAddr>,
    /// The other operators.
    pub peers: Vec<String>,
    /// Private addresses allowed for gateways and peers.
    pub allowed: Vec<Prefix>,
    /// The first block to scan without a stored place.
    pub from_block: Option<u64>,
    /// Deliveries paid per token in 24 hours.
    pub max_per_token: usize,
}

/// A ready operator.
pub struct Oracle {
    operator: Operator,
    payer: Transactor,
    counter: Option<TcpListener>,
    pause: Duration,
    /// Its description.
    pub start: Start,
}

/// An operator's description at its start.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// Its account.
    pub operator: Address,
    /// EIP-155 id.
    pub chain_id: u64,
    /// The contract it serves.
    pub contract: Address,
    /// The next block it scans.
    pub next_block: u64,
    /// Its server's address.
    pub listening: Option<SocketAddr>,
}

impl Oracle {
    /// Connects to chain, nodes and gateways. The caller owns the state folder.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn new(config: &Config, plan: &Plan, tell: Tell) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let wallet = contracts::open_wallet(config)?;
        let wanted = contracts::only_contract(config, "oracle")?;
        let contract = wanted.address;
        let guard = Guard::new(Reach::Public(plan.allowed.clone()))?;
        let sources = node::documents(config, &clock, &guard).await?;
        if sources.is_empty() {
            fail!(
                Usage,
                "oracle: nowhere to read from: give --node gateway=https://HOST, or a node"
            );
        }
        let ConnectedChain {
            endpoint,
            embedded,
            chain_id,
        } = contracts::connect(config, contracts::chain_of(config, wanted.chain), &clock).await?;
        if embedded.is_some() {
            fail!(
                Usage,
                "oracle: on an embedded chain the daemon is the oracle: give --rpc-url http…"
            );
        }
        let ledger = ContractLedger::new(endpoint.clone(), contract, wallet.address());
        let dialect = ledger.dialect().await?;
        if dialect != Dialect::PxSync {
            fail!(
                Usage,
                "oracle: contract {contract} speaks {}, which asks no oracle",
                dialect.name()
            );
        }
        let payer = payer(config, endpoint.clone(), &wallet).on_chain(endpoint.chain_id().await?);
        let from_block = match plan.from_block {
            Some(block) => block,
            None => endpoint.height().await?.saturating_sub(FIRST_LOOK),
        };
        let place = place_of(&config.state_dir, chain_id, &contract);
        let reader = Reader { sources };
        let operator = Operator::new(payer.clone(), contract, &[&wallet], reader, from_block)
            .telling(tell)
            .with_budget(plan.max_per_token)
            .kept_in(place.clone())
            .with_context(|| format!("{}: remove it to begin anew", place.display()))?;
        let operator = match plan.peers.is_empty() {
            true => operator,
            false => operator.with_colleagues(Arc::new(Peers::new(&plan.peers, guard)?)),
        };
        operator.check().await.context("oracle")?;
        let counter = match plan.listen {
            None => None,
            Some(at) => match TcpListener::bind(at).await {
                Ok(listener) => Some(listener),
                Err(fault) => fail!(Usage, "oracle: --listen {at}: {fault}"),
            },
        };
        let listening = counter.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(Self {
            start: Start {
                operator: payer.address(),
                chain_id,
                contract,
                next_block: operator.next_block(),
                listening,
            },
            operator,
            payer,
            counter,
            pause: config.refresh,
        })
    }

    /// Answers until a signal ends it.
    ///
    /// # Errors
    /// No signal handler.
    pub async fn serve(self) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let (end, ended) = watch::channel(false);
        let mut tasks = vec![tokio::spawn(contracts::drive_pending(self.payer))];
        if let Some(counter) = self.counter {
            tasks.push(tokio::spawn(serve(counter, self.operator.board())));
        }
        let work = tokio::spawn(self.operator.run(self.pause, ended));
        signals.end().await;
        tracing::info!("oracle: asked to end; what is open is answered after the next start");
        let _ = end.send(true);
        let worked = work.await;
        for task in tasks {
            task.abort();
        }
        Ok(worked?)
    }
}

/// An operator's place file in a state folder.
pub(crate) fn place_of(state: &Path, chain_id: u64, contract: &Address) -> PathBuf {
    state.join(format!("oracle-{chain_id}-{contract:#x}"))
}

/// Sends deliveries unattended: requesters decide their number, and see no price.
fn payer(config: &Config, endpoint: Endpoint, wallet: &Wallet) -> Transactor {
    Transactor::new(endpoint, wallet)
        .kept_in(&contracts::outbox(&config.state_dir))
        .with_gas_cost_max(config.max_fee)
        .with_limit(MINED)
        .unasked()
}

struct Peers {
    guard: Guard,
    /// With a trailing slash.
    urls: Vec<(reqwest::Url, String)>,
    /// Indices of those that did not answer last time.
    silent: Mutex<BTreeSet<usize>>,
}

impl Peers {
    fn new(urls: &[String], guard: Guard) -> anyhow::Result<Self> {
        let mut parsed = Vec::new();
        for text in urls {
            let whole = format!("{}/", text.trim_end_matches('/'));
            match reqwest::Url::parse(&whole) {
                Ok(url) if url.has_host() => {
                    let port = url.port().map(|port| format!(":{port}"));
                    let host = url.host_str().unwrap_or_default().to_owned();
                    parsed.push((url, host + &port.unwrap_or_default()));
                }
                _ => fail!(
                    Usage,
                    "oracle: --peer: say https://HOST or http://HOST:PORT"
                ),
            }
        }
        Ok(Self {
            guard,
            urls: parsed,
            silent: Mutex::default(),
        })
    }

    async fn ask(&self, at: usize, request: B256) -> Option<Statement> {
        let (url, label) = self.urls.get(at)?;
        let url = url.join(&format!("v1/{request}")).ok()?;
        let answer = self.guard.get(&url, STATEMENT_BYTES, PEER).await;
        let fault = match &answer {
            Ok(answer) if matches!(answer.status.as_u16(), 200 | 404) => None,
            Ok(answer) => Some(format!("it answers {}", answer.status)),
            Err(fault) => Some(fault.to_string()),
        };
        let mut silent = lock(&self.silent);
        match fault {
            None if silent.remove(&at) => tracing::info!("oracle: peer {label} is back"),
            Some(why) if silent.insert(at) => tracing::warn!("oracle: peer {label}: {why}"),
            _ => {}
        }
        drop(silent);
        let answer = answer.ok().filter(|answer| answer.status.as_u16() == 200)?;
        let said = serde_json::from_slice(&answer.body);
        if said.is_err() {
            tracing::warn!("oracle: peer {label} says what is no statement");
        }
        said.ok()
    }
}

#[async_trait]
impl Colleagues for Peers {
    async fn statements(&self, request: B256) -> Vec<Statement> {
        let asked = (0..self.urls.len()).map(|at| self.ask(at, request));
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// Serves the board, `GET /v1/REQUEST`; never returns.
async fn serve(counter: TcpListener, board: Board) {
    let places = Arc::new(Semaphore::new(GUESTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match counter.accept().await {
            Ok((guest, _)) => {
                let board = board.clone();
                tokio::spawn(async move {
                    let served = timeout(GUEST, answer(guest, &board)).await;
                    drop((served, place));
                });
            }
            Err(fault) => {
                // Out of files, for example: the next may work.
                tracing::debug!("oracle: {fault}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection: one question, reading no more than needed.
async fn answer(guest: TcpStream, board: &Board) -> hyper::Result<()> {
    let service = service_fn(async |question: Request<Incoming>| {
        let said = request_of(question.method(), question.uri().path()).map(|it| board.get(it));
        let (status, body) = match said {
            None => (StatusCode::BAD_REQUEST, Vec::new()),
            Some(None) => (StatusCode::NOT_FOUND, Vec::new()),
            Some(Some(statement)) => (StatusCode::OK, serde_json::to_vec(&statement)?),
        };
        let mut answer = Response::new(Full::<Bytes>::from(body));
        *answer.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok::<_, serde_json::Error>(answer)
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(QUESTION_BYTES)
        .serve_connection(TokioIo::new(guest), service);
    served.await
}

fn request_of(method: &Method, path: &str) -> Option<B256> {
    // A proxy may add a folder.
    let (_, request) = path.rsplit_once("/v1/")?;
    let request = request.parse().ok()?;
    (method == Method::GET).then_some(request)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::{Folders, Layer};

    #[tokio::test]
    async fn a_question_that_is_none_gets_no_statement() {
        let counter = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = counter.local_addr().unwrap();
        let serving = tokio::spawn(serve(counter, Board::default()));
        let ask = async |head: String| {
            let mut guest = TcpStream::connect(at).await.unwrap();
            // A server may hang up midway.
            let _ = guest.write_all(head.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = guest.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            answer.get(9..12).unwrap_or_default().to_owned()
        };
        let request = B256::repeat_byte(7);
        for (line, status) in [
            (format!("GET /v1/{request} HTTP/1.1"), "404"),
            (format!("GET /a/v1/{request} HTTP/1.0"), "404"),
            (format!("POST /v1/{request} HTTP/1.1"), "400"),
            (format!("GET /v2/{request} HTTP/1.1"), "400"),
            (format!("GET /v1/{request}0 HTTP/1.1"), "400"),
            (format!("GET /v1/{request} HTTP/1.1 more"), "400"),
            ("GET /v1/ HTTP/1.1".to_owned(), "400"),
            (
                format!("GET /v1/{} HTTP/1.1", "7".repeat(QUESTION_BYTES)),
                "431",
            ),
        ] {
            let told = ask(format!("{line}\r\nhost: x\r\n\r\n")).await;
            assert_eq!(told, status, "{line}");
        }
        serving.abort();
    }

    /// Each request makes it pay for a delivery.
    #[test]
    fn an_operator_pays_no_more_for_one_delivery_than_is_allowed() {
        let wallet = Wallet::random().unwrap();
        let bound = |max_fee: Option<&str>| {
            let layer = Layer {
                max_fee: max_fee.map(|coins| coins.parse().unwrap()),
                ..Layer::default()
            };
            let config = Config::resolve(layer, &Folders::from_env(|_| None, 0));
            let endpoint = Endpoint::http("http://127.0.0.1:1").unwrap();
            payer(&config, endpoint, &wallet).bound()
        };
        let tenth = U256::from(10).pow(U256::from(17));
        assert_eq!(bound(None), Some(tenth));
        assert_eq!(bound(Some("0.2")), Some(tenth * U256::from(2)));
    }

    #[tokio::test]
    async fn guests_that_say_nothing_keep_nobody_else_out_for_long() {
        let counter = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = counter.local_addr().unwrap();
        let serving = tokio::spawn(serve(counter, Board::default()));
        let mut silent = Vec::new();
        for _ in 0..GUESTS + 10 {
            silent.push(TcpStream::connect(at).await.unwrap());
        }
        let guard = Guard::new(Reach::Everywhere).unwrap();
        let peers = Peers::new(&[format!("http://{at}")], guard.clone()).unwrap();
        assert!(peers.statements(B256::ZERO).await.is_empty());
        let url = reqwest::Url::parse(&format!("http://{at}/v1/{}", B256::ZERO)).unwrap();
        let later = guard.get(&url, 100, GUEST * 4).await.unwrap();
        assert_eq!(later.status.as_u16(), 404);
        serving.abort();
    }
}
