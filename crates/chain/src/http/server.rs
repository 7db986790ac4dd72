//! One server of a chain.
//!
//! Invariant: an answer has exactly one response per request, within the size bound. A server of
//! unknown chain is asked only for that; if its chain has changed since, its answers are dropped.
//! No message shows more of a URL than scheme and host.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use alloy::primitives::U64;
use alloy::rpc::json_rpc::{
    Id, Request, RequestPacket, Response, ResponsePacket, SerializedRequest,
};
use alloy::transports::http::reqwest::{self, StatusCode, header};
use pxfs_base::backoff::Backoff;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::Limits;
use crate::busy;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unreachable,
    /// No TLS, or no certificate trusted here.
    Untrusted,
    Broken,
    Slow,
    /// Larger than any valid answer.
    TooLarge,
    /// Not the answer of a chain.
    Garbage,
    /// Rate-limited, and for how long if it says so.
    Busy(Option<Duration>),
    /// HTTP says so.
    Status(u16),
    /// It serves this chain, not the wanted one.
    OtherChain(u64),
    /// Its newest block lags by seconds.
    Behind(u64),
    /// Its newest block is seconds in the future.
    Ahead(u64),
}

/// A failure in one line, with the server's label.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct HttpFault {
    pub(crate) what: String,
    pub(crate) kind: Kind,
}

/// A batch below this also asks for the chain: no server refuses it for one more.
const SMALL: usize = 8;

pub(super) struct Server {
    pub(super) label: Arc<str>,
    url: reqwest::Url,
    client: reqwest::Client,
    limits: Limits,
    wanted: Arc<OnceLock<u64>>,
    health: Mutex<Health>,
    /// Requests it accepts per batch; 0 for no batches.
    batch_most: AtomicUsize,
}

struct Health {
    /// Why it rests, and until when.
    rest: Option<(HttpFault, Instant)>,
    /// The next rest.
    backoff: Backoff,
    /// When its chain was last asked for since a failure.
    known: Option<Instant>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.label)
    }
}

impl Server {
    /// The server at `url`, or what is wrong with the URL.
    pub(super) fn new(
        url: &str,
        client: reqwest::Client,
        limits: Limits,
        wanted: Arc<OnceLock<u64>>,
    ) -> Result<Self, String> {
        let url = reqwest::Url::parse(url).map_err(|fault| format!("is not a URL: {fault}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("is neither http:// nor https://".to_owned());
        }
        let backoff = Backoff::new(limits.rest_min, limits.rest_max);
        Ok(Self {
            label: label_of(&url)?.into(),
            url,
            client,
            limits,
            wanted,
            health: Mutex::new(Health {
                rest: None,
                backoff,
                known: None,
            }),
            batch_most: AtomicUsize::new(usize::MAX),
        })
    }

    /// Asks it, after its chain if unknown. A small batch includes that question if the chain was
    /// known before.
    pub(super) async fn ask(&self, packet: &RequestPacket) -> Result<ResponsePacket, HttpFault> {
        if let RequestPacket::Batch(requests) = packet
            && requests.len() < SMALL.min(self.batch_most.load(Ordering::Relaxed))
            && self.is_to_ask_again()
        {
            return self.batch_with_chain(requests.clone()).await;
        }
        self.check().await?;
        match packet {
            RequestPacket::Single(_) => self.exchange(packet).await,
            RequestPacket::Batch(requests) => {
                let most = self.batch_most.load(Ordering::Relaxed);
                let mut all = Vec::with_capacity(requests.len());
                for some in requests.chunks(most.max(1)) {
                    all.extend(self.batch(some.to_vec()).await?);
                }
                Ok(ResponsePacket::Batch(all))
            }
        }
    }

    /// Whether its known chain is due to be asked for again.
    fn is_to_ask_again(&self) -> bool {
        let known = self.health().known;
        known.is_some_and(|at| at.elapsed() >= self.limits.probe)
    }

    /// Asks for `requests` and the chain at once; answers only if the chain is the wanted one.
    async fn batch_with_chain(
        &self,
        mut requests: Vec<SerializedRequest>,
    ) -> Result<ResponsePacket, HttpFault> {
        let garbage = || self.fault(Kind::Garbage);
        let chain = Id::String("chain".to_owned());
        let question = Request::new("eth_chainId", chain.clone(), Vec::<u64>::new());
        requests.push(question.serialize().map_err(|_| garbage())?);
        let mut all = self.batch(requests).await?;
        let at = all.iter().position(|one| one.id == chain);
        let one = all.remove(at.ok_or_else(garbage)?);
        if one.payload.as_error().is_some_and(busy::is_later) {
            return Err(self.fault(Kind::Busy(None)));
        }
        let told = one.payload.as_success();
        let id: Option<U64> = told.and_then(|json| serde_json::from_str(json.get()).ok());
        self.note_chain(id.ok_or_else(garbage)?.to())?;
        Ok(ResponsePacket::Batch(all))
    }

    /// Records that it serves chain `id`.
    fn note_chain(&self, id: u64) -> Result<(), HttpFault> {
        if *self.wanted.get_or_init(|| id) != id {
            return Err(self.fault(Kind::OtherChain(id)));
        }
        self.health().known = Some(Instant::now());
        Ok(())
    }

    pub(super) async fn head(&self) -> Result<u64, HttpFault> {
        #[derive(Deserialize)]
        struct Block {
            timestamp: U64,
        }
        self.check().await?;
        let block: Block = self
            .simple("eth_getBlockByNumber", json!(["latest", false]))
            .await?;
        Ok(block.timestamp.to())
    }

    /// Whether the wanted chain is known, from the configuration or a server.
    pub(super) fn chain_is_known(&self) -> bool {
        self.wanted.get().is_some()
    }

    /// Asks for its chain if unknown since a failure, or if due: the server behind a URL may change
    /// without a failed call.
    pub(super) async fn check(&self) -> Result<(), HttpFault> {
        let known = self.health().known;
        if known.is_some_and(|at| at.elapsed() < self.limits.probe) {
            return Ok(());
        }
        let id: U64 = self.simple("eth_chainId", json!([])).await?;
        self.note_chain(id.to())
    }

    async fn simple<T: for<'de> Deserialize<'de>>(
        &self,
        method: &str,
        params: serde_json::Value,
    ) -> Result<T, HttpFault> {
        let request = json!({"jsonrpc": "2.0", "id": 0, "method": method, "params": params});
        let body = self.post(request.to_string().into()).await?;
        let answer: ResponsePacket =
            serde_json::from_slice(&body).map_err(|_| self.fault(Kind::Garbage))?;
        if answer.iter_errors().any(busy::is_later) {
            return Err(self.fault(Kind::Busy(None)));
        }
        let one = answer.as_single().filter(|one| one.id == Id::Number(0));
        let payload = one.and_then(|one| one.payload.as_success());
        let result = payload.and_then(|json| serde_json::from_str(json.get()).ok());
        result.ok_or_else(|| self.fault(Kind::Garbage))
    }

    /// A batch, halved if the server refuses it whole; remembers the size it takes.
    fn batch(
        &self,
        requests: Vec<SerializedRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Response>, HttpFault>> + Send + '_>> {
        Box::pin(async move {
            if let ([one], 0) = (&*requests, self.batch_most.load(Ordering::Relaxed)) {
                return self.alone(one).await;
            }
            let packet = RequestPacket::Batch(requests);
            let refused = match self.exchange(&packet).await {
                Ok(ResponsePacket::Batch(all)) => return Ok(all),
                Ok(ResponsePacket::Single(one)) => match one.payload.as_error() {
                    Some(error) if busy::is_later(error) => Some(Kind::Busy(None)),
                    _ => None,
                },
                Err(HttpFault {
                    kind: Kind::Status(400 | 413 | 422) | Kind::TooLarge,
                    ..
                }) => None,
                Err(fault) => return Err(fault),
            };
            if let Some(kind) = refused {
                return Err(self.fault(kind));
            }
            let RequestPacket::Batch(mut requests) = packet else {
                return Err(self.fault(Kind::Garbage));
            };
            if let [one] = requests.as_slice() {
                let one = self.alone(one).await?;
                self.batch_most.store(0, Ordering::Relaxed);
                return Ok(one);
            }
            let half = requests.split_off(requests.len().div_ceil(2));
            let most = requests.len();
            let mut all = self.batch(requests).await?;
            all.extend(self.batch(half).await?);
            self.batch_most.fetch_min(most, Ordering::Relaxed);
            Ok(all)
        })
    }

    async fn alone(&self, one: &SerializedRequest) -> Result<Vec<Response>, HttpFault> {
        let one = self.exchange(&RequestPacket::Single(one.clone())).await?;
        Ok(one.responses().to_vec())
    }

    /// One HTTP request; its answer fits it, or is one error for the batch.
    async fn exchange(&self, packet: &RequestPacket) -> Result<ResponsePacket, HttpFault> {
        let garbage = || self.fault(Kind::Garbage);
        let body = serde_json::to_vec(packet).map_err(|_| garbage())?;
        let body = self.post(body).await?;
        let answer: ResponsePacket = serde_json::from_slice(&body).map_err(|_| garbage())?;
        if let (RequestPacket::Batch(_), ResponsePacket::Single(one)) = (packet, &answer)
            && one.payload.is_error()
        {
            return Ok(answer);
        }
        // go-ethereum wraps it in a batch of one.
        if let (RequestPacket::Batch(asked), ResponsePacket::Batch(told)) = (packet, &answer)
            && let ([_, _, ..], [one]) = (asked.as_slice(), told.as_slice())
            && one.payload.is_error()
        {
            return Ok(ResponsePacket::Single(one.clone()));
        }
        let asked: BTreeSet<_> = packet.requests().iter().map(|one| one.id()).collect();
        let told: BTreeSet<_> = answer.response_ids().collect();
        let each_once = answer.responses().len() == packet.requests().len();
        match asked == told && each_once {
            true => Ok(answer),
            false => Err(garbage()),
        }
    }

    async fn post(&self, body: Vec<u8>) -> Result<Vec<u8>, HttpFault> {
        let broken = |fault: reqwest::Error| {
            self.fault(if fault.is_timeout() {
                Kind::Slow
            } else if of_tls(&fault) {
                Kind::Untrusted
            } else if fault.is_connect() {
                Kind::Unreachable
            } else {
                Kind::Broken
            })
        };
        let request = self.client.post(self.url.clone()).body(body);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            let after = response.headers().get(header::RETRY_AFTER);
            let after = after.and_then(|after| after.to_str().ok()?.trim().parse().ok());
            let after = after.map(Duration::from_secs);
            return Err(self.fault(Kind::Busy(after)));
        }
        let mut whole = Vec::new();
        while let Some(part) = response.chunk().await.map_err(broken)? {
            if whole.len() + part.len() > self.limits.answer_bytes {
                return Err(self.fault(Kind::TooLarge));
            }
            whole.extend_from_slice(&part);
        }
        // Some give chain errors an HTTP status of their own.
        let is_answer = || {
            let answer = serde_json::from_slice::<ResponsePacket>(&whole);
            answer.is_ok_and(|answer| answer.is_error())
        };
        match status.is_success() || is_answer() {
            true => Ok(whole),
            false => Err(self.fault(Kind::Status(status.as_u16()))),
        }
    }

    pub(super) fn fault(&self, kind: Kind) -> HttpFault {
        let at = &self.label;
        let what = match kind {
            Kind::Unreachable => format!("{at} cannot be reached"),
            Kind::Untrusted => format!(
                "{at} has no TLS, or no certificate that is trusted here: check the URL and the clock"
            ),
            Kind::Broken => format!("{at} broke the connection"),
            Kind::Slow => format!("{at} does not answer in time"),
            Kind::TooLarge => {
                let most = self.limits.answer_bytes >> 20;
                format!("{at} answers with more than {most} MiB")
            }
            Kind::Garbage => format!("{at} does not answer as a chain does"),
            Kind::Busy(_) => format!("{at} is busy: it asks for fewer requests"),
            Kind::Status(status) => format!("{at} answered with HTTP status {status}"),
            Kind::OtherChain(id) => {
                let wanted = self.wanted.get().copied().unwrap_or_default();
                format!("{at} is of chain {id}, not of {wanted}: give another --rpc-url")
            }
            Kind::Behind(by_s) => format!("{at} is behind: its newest block is {by_s} s old"),
            Kind::Ahead(by_s) => format!(
                "{at} is not believed: its newest block is of {by_s} s from now: check the clock here, or give another --rpc-url"
            ),
        };
        HttpFault { what, kind }
    }

    pub(super) fn well(&self) {
        let mut health = self.health();
        health.backoff.reset();
        health
            .rest
            .take_if(|(fault, _)| !matches!(fault.kind, Kind::Behind(_) | Kind::Ahead(_)));
    }

    /// Its newest block is valid and as new as the others'.
    pub(super) fn is_level(&self) {
        let mut health = self.health();
        health
            .rest
            .take_if(|(fault, _)| matches!(fault.kind, Kind::Behind(_) | Kind::Ahead(_)));
    }

    /// Leaves it alone for a while, for this reason.
    pub(super) fn rest(&self, fault: &HttpFault) {
        let limits = &self.limits;
        let mut health = self.health();
        let pause = health.backoff.pause();
        let rest = match fault.kind {
            Kind::Busy(Some(after)) => after.min(limits.rest_max),
            Kind::OtherChain(_) => limits.rest_max,
            // Until the next check of all.
            Kind::Behind(_) | Kind::Ahead(_) => limits.probe * 2,
            _ => pause,
        };
        if !matches!(fault.kind, Kind::Busy(_) | Kind::Behind(_) | Kind::Ahead(_)) {
            // A server that comes back may be another.
            health.known = None;
        }
        health.rest = Some((fault.clone(), Instant::now() + rest));
    }

    pub(super) fn resting(&self) -> HttpFault {
        let rest = self.health().rest.clone();
        rest.map_or_else(|| self.fault(Kind::Slow), |(fault, _)| fault)
    }

    pub(super) fn is_well(&self, now: Instant) -> bool {
        self.health()
            .rest
            .as_ref()
            .is_none_or(|(_, until)| *until <= now)
    }

    pub(super) fn is_behind(&self) -> bool {
        self.rests(|kind| matches!(kind, Kind::Behind(_)))
    }

    pub(super) fn is_ahead(&self) -> bool {
        self.rests(|kind| matches!(kind, Kind::Ahead(_)))
    }

    /// Whether it may have recovered early.
    pub(super) fn may_be_tried(&self) -> bool {
        !self.rests(|kind| matches!(kind, Kind::Busy(_) | Kind::OtherChain(_) | Kind::Ahead(_)))
    }

    /// Whether a check may ask it: not while it wants to be left alone.
    pub(super) fn may_be_looked_at(&self) -> bool {
        self.busy_until()
            .is_none_or(|until| until <= Instant::now())
    }

    pub(super) fn busy_until(&self) -> Option<Instant> {
        let health = self.health();
        let (fault, until) = health.rest.as_ref()?;
        matches!(fault.kind, Kind::Busy(_)).then_some(*until)
    }

    fn rests(&self, why: impl Fn(Kind) -> bool) -> bool {
        let health = self.health();
        health
            .rest
            .as_ref()
            .is_some_and(|(fault, _)| why(fault.kind))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Scheme and host of `url`, because the rest holds keys.
pub(super) fn label_of(url: &reqwest::Url) -> Result<String, String> {
    let host = url.host_str().ok_or("has no host")?;
    Ok(match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    })
}

/// Whether TLS failed: rustls reports invalid data.
fn of_tls(fault: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(fault);
    while let Some(one) = cause {
        if one.downcast_ref().is_some_and(is_invalid) {
            return fault.is_connect();
        }
        cause = one.source();
    }
    false
}

fn is_invalid(fault: &std::io::Error) -> bool {
    let within = || fault.get_ref().and_then(|within| within.downcast_ref());
    fault.kind() == std::io::ErrorKind::InvalidData || within().is_some_and(is_invalid)
}
