//! A chain over HTTP: one or more servers behind one transport.
//!
//! Each request goes to the first healthy server in the given order. One that fails rests, longer
//! each time, and is then retried, so a recovered first choice is used again. Several are checked
//! once a minute: one of another chain is refused, one that lags behind the others goes last, and
//! one whose newest block is from the future is not asked while there is, or was, another.
//!
//! Invariant: every request ends within [`Limits::total`], holds at most [`Limits::answer_bytes`],
//! and is answered by a server of the wanted chain or not at all. A transaction may reach several
//! servers; it is still one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use alloy::rpc::json_rpc::{RequestPacket, ResponsePacket};
use alloy::transports::http::reqwest;
use alloy::transports::{TransportError, TransportErrorKind, TransportFut};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tower::Service;

use self::server::Server;
pub(super) use self::server::{HttpFault, Kind};
pub(super) use self::socket_url::SocketUrl;
use super::ChainError;
use super::busy;
use pxfs_base::clock::{Clock as _, SystemClock};

#[cfg(test)]
pub(super) mod proxy;
mod server;
mod socket_url;
#[cfg(test)]
mod tests;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) total: Duration,
    /// One try, if there is another server.
    pub(super) attempt: Duration,
    pub(super) connect: Duration,
    pub(super) rest_min: Duration,
    pub(super) rest_max: Duration,
    /// Between two checks of all servers.
    pub(super) probe: Duration,
    /// How far a server may lag, seconds of block time.
    pub(super) behind_s: u64,
    /// How far its newest block may be ahead of this clock, seconds.
    pub(super) ahead_s: u64,
    pub(super) answer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(15),
            attempt: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            rest_min: Duration::from_secs(1),
            rest_max: Duration::from_secs(60),
            probe: Duration::from_secs(60),
            behind_s: 60,
            ahead_s: 900,
            answer_bytes: 16 << 20,
        }
    }
}

/// One chain's servers as a transport. Cheap to clone.
#[derive(Clone)]
pub(super) struct Servers {
    inner: Arc<Inner>,
}

struct Inner {
    servers: Vec<Server>,
    limits: Limits,
    /// The last check of all.
    probed: Mutex<Option<Instant>>,
    current: AtomicUsize,
    clock: SystemClock,
}

impl Servers {
    /// The servers at `urls`, of the chain `wanted` if known; sends nothing.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] if there is none, or one is not an http or https URL.
    pub(super) fn new(
        urls: &[&str],
        wanted: Option<u64>,
        limits: Limits,
    ) -> Result<Self, ChainError> {
        // Configured, or the first answering server's.
        let id = Arc::new(wanted.map_or_else(OnceLock::new, OnceLock::from));
        // No redirects: they may send the question, and its key, anywhere.
        let client = reqwest::Client::builder()
            .timeout(limits.total)
            .connect_timeout(limits.connect)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|fault| broken(format!("gets no client: {}", fault.without_url())))?;
        let servers = urls
            .iter()
            .map(|url| Server::new(url, client.clone(), limits, Arc::clone(&id)).map_err(broken))
            .collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(broken("is missing".to_owned()));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                servers,
                limits,
                probed: Mutex::default(),
                current: AtomicUsize::new(0),
                clock: SystemClock,
            }),
        })
    }

    pub(super) fn current(&self) -> Arc<str> {
        let index = self.inner.current.load(Ordering::Relaxed);
        Arc::clone(&self.inner.servers[index].label)
    }

    async fn ask(&self, packet: &RequestPacket) -> Result<ResponsePacket, TransportError> {
        let inner = &*self.inner;
        let deadline = Instant::now() + inner.limits.total;
        // The next check finds the rest.
        let _ = timeout_at(deadline, self.probe()).await;
        let mut tried = vec![false; inner.servers.len()];
        let mut last = None;
        loop {
            let now = Instant::now();
            let Some(index) = inner.pick(&tried, now) else {
                // A server that asked only for time may be asked again.
                let Some((index, due)) = inner.busy_until().filter(|(_, due)| *due < deadline)
                else {
                    break;
                };
                sleep_until(due).await;
                tried[index] = false;
                continue;
            };
            tried[index] = true;
            let others = inner.pick(&tried, now).is_some();
            let until = match others {
                true => deadline.min(now + inner.limits.attempt),
                false => deadline,
            };
            let server = &inner.servers[index];
            let answer = timeout_at(until, server.ask(packet)).await;
            let answer = answer.unwrap_or_else(|_| Err(server.fault(Kind::Slow)));
            let fault = match answer {
                Ok(answer) if answer.iter_errors().any(busy::is_later) => {
                    last = Some(Ok(answer));
                    server.fault(Kind::Busy(None))
                }
                Ok(answer) => {
                    server.well();
                    inner.note(index);
                    return Ok(answer);
                }
                Err(fault) => {
                    last = Some(Err(fault.clone()));
                    fault
                }
            };
            server.rest(&fault);
            if Instant::now() >= deadline {
                break;
            }
        }
        let rests = || Err(inner.servers[0].resting());
        let last = last.unwrap_or_else(rests);
        last.map_err(TransportErrorKind::custom)
    }

    /// Checks all servers if there are several and it is due. The first check is awaited: the first
    /// choice may be wrong.
    async fn probe(&self) {
        let inner = &self.inner;
        if inner.servers.len() < 2 {
            return;
        }
        let now = Instant::now();
        let before = {
            let mut probed = inner.probed.lock().unwrap_or_else(PoisonError::into_inner);
            if probed.is_some_and(|last| now < last + inner.limits.probe) {
                return;
            }
            probed.replace(now)
        };
        let this = self.clone();
        let looking = async move { this.look().await };
        match before {
            None => looking.await,
            // Nobody waits for it, and it ends by itself.
            Some(_) => drop(tokio::spawn(looking)),
        }
    }

    async fn look(&self) {
        let inner = &self.inner;
        // Without a configured chain the first choice's counts: no other may decide it sooner.
        for server in &inner.servers {
            if server.chain_is_known() {
                break;
            }
            let asked = timeout(inner.limits.attempt, server.check()).await;
            if let Err(fault) = asked.unwrap_or_else(|_| Err(server.fault(Kind::Slow))) {
                server.rest(&fault);
            }
        }
        let until = Instant::now() + inner.limits.attempt;
        let heads = inner.servers.iter().map(|server| async move {
            if !server.may_be_looked_at() {
                return None;
            }
            let head = timeout_at(until, server.head()).await;
            match head.unwrap_or_else(|_| Err(server.fault(Kind::Slow))) {
                Ok(head) => Some(head),
                Err(fault) => {
                    server.rest(&fault);
                    None
                }
            }
        });
        let heads = futures::future::join_all(heads).await;
        let now_s = inner.clock.wall_s();
        let verdicts = judge(&heads, now_s, &inner.limits);
        for (server, verdict) in inner.servers.iter().zip(verdicts) {
            match verdict {
                None => {}
                Some(Verdict::Level) => server.is_level(),
                Some(Verdict::Behind(by_s)) => server.rest(&server.fault(Kind::Behind(by_s))),
                Some(Verdict::Ahead(by_s)) => server.rest(&server.fault(Kind::Ahead(by_s))),
                // Nothing known of others says that its time is right.
                Some(Verdict::AllAhead(by_s)) if server.is_ahead() => {
                    server.rest(&server.fault(Kind::Ahead(by_s)));
                }
                Some(Verdict::AllAhead(_)) => server.is_level(),
            }
        }
    }
}

fn broken(what: String) -> ChainError {
    ChainError::Permanent(format!("--rpc-url {what}"))
}

/// A server's newest block compared with the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Level,
    /// Seconds older than the newest valid one.
    Behind(u64),
    /// Seconds later than valid, while another's is valid.
    Ahead(u64),
    /// The same, and no other's is valid: a development chain, or this clock is slow.
    AllAhead(u64),
}

/// Judges the servers by their newest blocks' timestamps at `now_s`; those without one get no
/// verdict. A future time makes no other server old.
fn judge(heads: &[Option<u64>], now_s: u64, limits: &Limits) -> Vec<Option<Verdict>> {
    let latest_s = now_s.saturating_add(limits.ahead_s);
    let told = || heads.iter().flatten().copied();
    let possible = told().filter(|head| *head <= latest_s).max();
    let newest = possible.or(told().max()).unwrap_or(0);
    let of = |head: u64| {
        let behind_s = newest.saturating_sub(head);
        let ahead_s = head.saturating_sub(now_s);
        match (head > latest_s, possible) {
            (true, Some(_)) => Verdict::Ahead(ahead_s),
            (_, None) if behind_s <= limits.behind_s => Verdict::AllAhead(ahead_s),
            _ if behind_s > limits.behind_s => Verdict::Behind(behind_s),
            _ => Verdict::Level,
        }
    };
    heads.iter().map(|head| head.map(of)).collect()
}

impl Inner {
    /// The next server to try: the first that does not rest, else one that may have recovered.
    fn pick(&self, tried: &[bool], now: Instant) -> Option<usize> {
        let open = |index: &usize| !tried[*index];
        let all = || (0..self.servers.len()).filter(open);
        let well = all().find(|&index| self.servers[index].is_well(now));
        // An old block beats none, and a try beats none.
        let behind = || all().find(|&index| self.servers[index].is_behind());
        let any = || {
            let first = !tried.contains(&true);
            all().find(|&index| first && self.servers[index].may_be_tried())
        };
        well.or_else(behind).or_else(any)
    }

    /// The first server ready again after asking for time, and when.
    fn busy_until(&self) -> Option<(usize, Instant)> {
        let servers = self.servers.iter().enumerate();
        let busy = servers.filter_map(|(index, server)| Some((index, server.busy_until()?)));
        busy.min_by_key(|(_, due)| *due)
    }

    /// Logs once that another server answers than before.
    fn note(&self, index: usize) {
        let before = self.current.swap(index, Ordering::Relaxed);
        if before != index {
            let (from, to) = (&self.servers[before].label, &self.servers[index].label);
            tracing::warn!("chain: {to} is asked now instead of {from}");
        }
    }
}

impl Service<RequestPacket> for Servers {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.ask(&packet).await })
    }
}
