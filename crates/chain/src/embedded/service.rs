//! The embedded chain as an alloy transport, without a socket.
//!
//! Invariant: a batch is answered in order, and consecutive reads see one state.

use std::sync::Arc;
use std::task::{Context, Poll};

use alloy::primitives::{Bytes, U256};
use alloy::rpc::json_rpc::{
    RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest,
};
use alloy::transports::{TransportError, TransportErrorKind, TransportFut};
use serde_json::Value;
use serde_json::value::RawValue;
use tower::Service;

use super::Handle;
use super::fault::Fault;
use super::rpc::{self, Params};
use super::writer::{Done, Order};

impl Service<RequestPacket> for Handle {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        let handle = self.clone();
        Box::pin(async move {
            match packet {
                RequestPacket::Single(request) => {
                    let mut responses = handle.answer_all(vec![request]).await?;
                    let response = responses.pop().ok_or_else(|| {
                        TransportErrorKind::custom_str("the embedded chain gave no answer")
                    })?;
                    Ok(ResponsePacket::Single(response))
                }
                RequestPacket::Batch(requests) => {
                    handle.answer_all(requests).await.map(ResponsePacket::Batch)
                }
            }
        })
    }
}

/// A request as it is carried out.
enum Step {
    Read(Params),
    Write(Order),
    Refuse(Fault),
}

impl Handle {
    async fn answer_all(
        &self,
        requests: Vec<SerializedRequest>,
    ) -> Result<Vec<Response>, TransportError> {
        let mut responses = Vec::with_capacity(requests.len());
        let mut reads: Vec<(SerializedRequest, Params)> = Vec::new();
        for request in requests {
            match step(&request) {
                Step::Read(params) => reads.push((request, params)),
                Step::Write(order) => {
                    responses.extend(self.read_all(std::mem::take(&mut reads)).await?);
                    let done = self.order(order).await;
                    responses.push(response(&request, done.and_then(show)));
                }
                Step::Refuse(fault) => {
                    responses.extend(self.read_all(std::mem::take(&mut reads)).await?);
                    responses.push(response(&request, Err(fault)));
                }
            }
        }
        responses.extend(self.read_all(reads).await?);
        Ok(responses)
    }

    /// Answers reads from one state, on a thread that may be busy a while.
    async fn read_all(
        &self,
        reads: Vec<(SerializedRequest, Params)>,
    ) -> Result<Vec<Response>, TransportError> {
        if reads.is_empty() {
            return Ok(Vec::new());
        }
        let shared = Arc::clone(&self.inner.shared);
        tokio::task::spawn_blocking(move || {
            let now = shared.now();
            let chain = shared.read();
            let answers = reads.iter().map(|(request, params)| {
                let answer = rpc::answer(&chain, now, request.method(), params);
                response(request, answer)
            });
            answers.collect()
        })
        .await
        .map_err(TransportErrorKind::custom)
    }
}

fn response(request: &SerializedRequest, answer: Result<Box<RawValue>, Fault>) -> Response {
    Response {
        id: request.id().clone(),
        payload: match answer {
            Ok(result) => ResponsePayload::Success(result),
            Err(fault) => ResponsePayload::Failure(fault.payload()),
        },
    }
}

fn step(request: &SerializedRequest) -> Step {
    let order = Params::new(request.params()).and_then(|params| {
        Ok(match request.method() {
            "eth_sendRawTransaction" => Step::Write(Order::Send(params.get::<Bytes>(0)?)),
            "evm_mine" => Step::Write(Order::Mine(1)),
            "anvil_mine" => {
                let count = params.optional(0)?.map_or(Ok(1), |count| whole(&count))?;
                Step::Write(Order::Mine(count))
            }
            "evm_increaseTime" => Step::Write(Order::Advance(whole(&params.get(0)?)?)),
            "evm_snapshot" => Step::Write(Order::Snapshot),
            "evm_revert" => Step::Write(Order::Revert(whole(&params.get(0)?)?)),
            _ => Step::Read(params),
        })
    });
    order.unwrap_or_else(Step::Refuse)
}

/// A JSON number, or decimal or 0x text.
fn whole(value: &Value) -> Result<u64, Fault> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    };
    number.ok_or_else(|| Fault::params(format!("{value} is not a whole number")))
}

fn show(done: Done) -> Result<Box<RawValue>, Fault> {
    match done {
        Done::Sent(hash) => rpc::json(&hash),
        Done::Mined => rpc::json("0x0"),
        Done::Advanced(offset_s) => rpc::json(&offset_s),
        Done::Remembered(number) => rpc::json(&U256::from(number)),
        Done::Reverted(done) => rpc::json(&done),
    }
}
