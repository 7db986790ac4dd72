//! A flaky transport for tests: records requests, and refuses or falsifies answers on demand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{
    ErrorPayload, Id, RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest,
};
use alloy::transports::{BoxTransport, TransportError, TransportFut};
use serde_json::Value;
use tower::Service;

use super::endpoint::Endpoint;

/// Code and words of a refusal.
pub(super) type Refusal = (i64, &'static str);
/// Such a request is never answered.
pub(super) const SILENCE: Refusal = (i64::MIN, "");
type Rule = dyn Fn(&Asked) -> Option<Refusal> + Send + Sync;
type Lie = dyn Fn(&Asked, Value) -> Value + Send + Sync;

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) params: Value,
}

impl Asked {
    fn of(request: &SerializedRequest) -> Self {
        let params = request.params().map(|params| params.get());
        Self {
            method: request.method().to_owned(),
            params: params.map_or(Value::Null, |json| serde_json::from_str(json).unwrap()),
        }
    }

    /// The number of blocks that a log request covers.
    pub(super) fn log_blocks(&self) -> Option<u64> {
        let filter = self
            .params
            .get(0)
            .filter(|_| self.method == "eth_getLogs")?;
        let number = |key: &str| {
            let hex = filter[key].as_str()?.strip_prefix("0x")?;
            u64::from_str_radix(hex, 16).ok()
        };
        Some(number("toBlock")? - number("fromBlock")? + 1)
    }

    pub(super) fn calls(&self, selector: [u8; 4]) -> bool {
        let data = self.params[0]["input"].as_str().unwrap_or_default();
        self.method == "eth_call" && data.starts_with(&alloy::hex::encode_prefixed(selector))
    }
}

#[derive(Clone)]
pub(super) struct Meddler {
    below: BoxTransport,
    rule: Arc<Mutex<Arc<Rule>>>,
    lie: Arc<Mutex<Arc<Lie>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    packets: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Meddler {
    pub(super) fn new(below: BoxTransport) -> Self {
        Self {
            below,
            rule: Arc::new(Mutex::new(Arc::new(|_| None))),
            lie: Arc::new(Mutex::new(Arc::new(|_, honest| honest))),
            asked: Arc::default(),
            packets: Arc::default(),
            bytes: Arc::default(),
        }
    }

    /// Refuses by `rule` from now on.
    pub(super) fn refuse(&self, rule: impl Fn(&Asked) -> Option<Refusal> + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Arc::new(rule);
    }

    pub(super) fn lie(&self, lie: impl Fn(&Asked, Value) -> Value + Send + Sync + 'static) {
        *self.lie.lock().unwrap() = Arc::new(lie);
    }

    /// Requests since the last call.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// HTTP requests since the last call; a batch is one.
    pub(super) fn packets(&self) -> u64 {
        self.packets.swap(0, Ordering::Relaxed)
    }

    /// Bytes sent and received since the last call, without HTTP's own.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.swap(0, Ordering::Relaxed)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::new(RpcClient::new(self.clone(), true), "meddled", true)
    }

    fn altered(&self, asked: &Asked, Response { id, payload }: Response) -> Response {
        let lie = self.lie.lock().unwrap().clone();
        let payload = match payload {
            ResponsePayload::Success(honest) => {
                let honest = serde_json::from_str(honest.get()).unwrap();
                let told = lie(asked, honest);
                ResponsePayload::Success(serde_json::value::to_raw_value(&told).unwrap())
            }
            failure @ ResponsePayload::Failure(_) => failure,
        };
        let answer = Response { id, payload };
        let bytes = serde_json::to_vec(&answer).unwrap().len() as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        answer
    }

    fn refusal(&self, request: &SerializedRequest) -> Option<Response> {
        let bytes = request.serialized().get().len() as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let asked = Asked::of(request);
        let rule = self.rule.lock().unwrap().clone();
        let refusal = rule(&asked);
        self.asked.lock().unwrap().push(asked);
        let (code, words) = refusal?;
        let payload = ErrorPayload {
            code,
            message: words.into(),
            data: None,
        };
        Some(Response {
            id: request.id().clone(),
            payload: ResponsePayload::Failure(payload),
        })
    }
}

impl Service<RequestPacket> for Meddler {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        self.packets.fetch_add(1, Ordering::Relaxed);
        let this = self.clone();
        Box::pin(async move {
            let requests = match packet {
                RequestPacket::Single(request) => {
                    if let Some(refusal) = this.refusal(&request) {
                        unless_silent(&refusal).await;
                        return Ok(ResponsePacket::Single(refusal));
                    }
                    let asked = Asked::of(&request);
                    let mut below = this.below.clone();
                    let answer = below.call(RequestPacket::Single(request)).await?;
                    return Ok(match answer {
                        ResponsePacket::Single(answer) => {
                            ResponsePacket::Single(this.altered(&asked, answer))
                        }
                        answers @ ResponsePacket::Batch(_) => answers,
                    });
                }
                RequestPacket::Batch(requests) => requests,
            };
            let (mut refused, mut passed) = (Vec::new(), Vec::new());
            for request in requests {
                match this.refusal(&request) {
                    Some(refusal) => {
                        unless_silent(&refusal).await;
                        refused.push(refusal);
                    }
                    None => passed.push(request),
                }
            }
            if !passed.is_empty() {
                let asked: Vec<(Id, Asked)> = (passed.iter())
                    .map(|request| (request.id().clone(), Asked::of(request)))
                    .collect();
                let answers = this
                    .below
                    .clone()
                    .call(RequestPacket::Batch(passed))
                    .await?;
                let answers = match answers {
                    ResponsePacket::Single(one) => vec![one],
                    ResponsePacket::Batch(all) => all,
                };
                refused.extend(answers.into_iter().map(|answer| {
                    match asked.iter().find(|(id, _)| *id == answer.id) {
                        Some((_, asked)) => this.altered(asked, answer),
                        None => answer,
                    }
                }));
            }
            Ok(ResponsePacket::Batch(refused))
        })
    }
}

/// Returns, unless there is to be no answer.
async fn unless_silent(refusal: &Response) {
    let is = |why: &ErrorPayload| why.code == SILENCE.0;
    if matches!(&refusal.payload, ResponsePayload::Failure(why) if is(why)) {
        std::future::pending::<()>().await;
    }
}
