//! JSON-RPC over one WebSocket: a few requests, then notices.
//!
//! The handshake uses the HTTP client, for its certificates, proxies and timeouts. Invariant: a
//! message holds at most [`MESSAGE_BYTES`], each request is answered in [`ANSWER`] or fails, and no
//! error shows more of a URL than scheme and host.

use std::time::Duration;

use alloy::primitives::U64;
use alloy::rpc::types::{Filter, Log};
use alloy::transports::http::reqwest::{self, StatusCode, Upgraded, header};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use crate::http::SocketUrl;

/// The limit for connecting, and for each answer.
const ANSWER: Duration = Duration::from_secs(15);
/// The largest message. A head takes about 2 KiB.
const MESSAGE_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum Notice {
    /// A block of this number.
    Head(u64),
    /// A contract log, or its removal.
    Log(Box<Log>),
}

pub(super) struct Socket {
    stream: WebSocketStream<Upgraded>,
    asked: u64,
    /// The server's ids of the two subscriptions.
    heads: Option<Value>,
    logs: Option<Value>,
}

#[derive(Deserialize)]
struct Incoming {
    id: Option<u64>,
    result: Option<Value>,
    params: Option<Params>,
}

#[derive(Deserialize)]
struct Params {
    subscription: Value,
    result: Value,
}

#[derive(Deserialize)]
struct Head {
    number: U64,
}

impl Socket {
    pub(super) async fn connect(url: &SocketUrl) -> Result<Self, String> {
        let upgraded = timeout(ANSWER, upgrade(url)).await;
        let upgraded = upgraded.map_err(|_| "does not answer in time".to_owned())??;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES))
            .max_frame_size(Some(MESSAGE_BYTES));
        let stream = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config));
        Ok(Self {
            stream: stream.await,
            asked: 0,
            heads: None,
            logs: None,
        })
    }

    pub(super) async fn number(&mut self, method: &str) -> Result<u64, String> {
        let told = self.ask(method, json!([])).await?;
        let number: U64 = serde_json::from_value(told).map_err(|_| garbage())?;
        Ok(number.to())
    }

    pub(super) async fn subscribe_to_heads(&mut self) -> Result<(), String> {
        let named = self.ask("eth_subscribe", json!(["newHeads"])).await?;
        self.heads = Some(named);
        Ok(())
    }

    pub(super) async fn subscribe_to_logs(&mut self, filter: &Filter) -> Result<(), String> {
        let named = self.ask("eth_subscribe", json!(["logs", filter])).await?;
        self.logs = Some(named);
        Ok(())
    }

    /// The next notice. May be dropped while it waits.
    pub(super) async fn notice(&mut self) -> Result<Notice, String> {
        loop {
            let Some(params) = self.incoming().await?.params else {
                continue;
            };
            let of = |named: &Option<Value>| named.as_ref() == Some(&params.subscription);
            if of(&self.heads) {
                let head: Head = serde_json::from_value(params.result).map_err(|_| garbage())?;
                return Ok(Notice::Head(head.number.to()));
            }
            if of(&self.logs) {
                let log = serde_json::from_value(params.result).map_err(|_| garbage())?;
                return Ok(Notice::Log(log));
            }
        }
    }

    /// One answer. Drops notices before it, because a new subscriber reads everything anyway.
    async fn ask(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.asked += 1;
        let id = self.asked;
        let question = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answered = timeout(ANSWER, async {
            let sent = self.stream.send(Message::text(question.to_string()));
            sent.await.map_err(|_| broken())?;
            loop {
                let incoming = self.incoming().await?;
                if incoming.id == Some(id) {
                    let refused = || format!("refuses `{method}`");
                    return incoming.result.ok_or_else(refused);
                }
            }
        });
        answered
            .await
            .map_err(|_| "does not answer in time".to_owned())?
    }

    async fn incoming(&mut self) -> Result<Incoming, String> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|_| garbage());
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(broken()),
                // The stream answers pings itself.
                Some(Ok(_)) => {}
            }
        }
    }
}

/// Upgrades the connection to WebSocket (RFC 6455, section 4.1).
async fn upgrade(url: &SocketUrl) -> Result<Upgraded, String> {
    let key = generate_key();
    let request = url.get().header(header::CONNECTION, "Upgrade");
    let request = request.header(header::UPGRADE, "websocket");
    let request = request.header(header::SEC_WEBSOCKET_VERSION, "13");
    let request = request.header(header::SEC_WEBSOCKET_KEY, &key);
    let response = request.send().await;
    let response = response.map_err(|fault| match fault.is_connect() {
        true => "cannot be reached".to_owned(),
        false => broken(),
    })?;
    let status = response.status();
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    let is_accepted = accept.is_some_and(|accept| accept == &derive_accept_key(key.as_bytes()));
    if status != StatusCode::SWITCHING_PROTOCOLS || !is_accepted {
        return Err(format!(
            "opens no WebSocket (HTTP status {})",
            status.as_u16()
        ));
    }
    let upgraded: reqwest::Result<Upgraded> = response.upgrade().await;
    upgraded.map_err(|_| broken())
}

fn broken() -> String {
    "broke the connection".to_owned()
}

fn garbage() -> String {
    "does not answer as a chain does".to_owned()
}
