//! A server in front of anvil that misbehaves on demand.
//!
//! Invariant: it closes every connection after one answer, so that a new mode counts at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::transports::http::reqwest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Clone, Debug)]
pub(crate) enum Mode {
    Well,
    /// HTTP status, and `Retry-After` in seconds.
    Status(u16, Option<u64>),
    Refuse(i64, &'static str),
    /// So often; then well.
    Times(u32, Box<Mode>),
    Hang,
    Close,
    /// Sends this with status 200.
    Say(&'static str),
    /// Sends 100 MiB.
    Flood,
    /// Reports this chain id, otherwise well.
    ChainId(u64),
    /// Answers larger batches with one error; wrapped in a batch of one, as go-ethereum does, if
    /// set.
    Batches(usize, bool),
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    target: String,
    client: reqwest::Client,
    mode: Mutex<Mode>,
    /// The methods asked for.
    asked: Mutex<Vec<String>>,
    /// HTTP requests.
    posts: Mutex<usize>,
    /// Bytes it could send.
    sent_bytes: Mutex<u64>,
}

impl Proxy {
    pub(crate) async fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            client: reqwest::Client::new(),
            mode: Mutex::new(Mode::Well),
            asked: Mutex::default(),
            posts: Mutex::default(),
            sent_bytes: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&served);
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        Self { url, shared, task }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.asked.lock().unwrap())
    }

    /// HTTP requests since the last call.
    pub(super) fn posts(&self) -> usize {
        std::mem::take(&mut self.shared.posts.lock().unwrap())
    }

    pub(crate) fn sent_bytes(&self) -> u64 {
        *self.shared.sent_bytes.lock().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let body = question(&mut stream).await?;
        let asked: Value = serde_json::from_slice(&body).ok()?;
        let all = asked.as_array().cloned().unwrap_or(vec![asked.clone()]);
        let methods = all.iter().filter_map(|one| one["method"].as_str());
        self.asked
            .lock()
            .unwrap()
            .extend(methods.map(str::to_owned));
        *self.posts.lock().unwrap() += 1;
        let mode = self.mode_now();
        match mode {
            Mode::Hang => tokio::time::sleep(Duration::from_secs(600)).await,
            Mode::Close => {}
            Mode::Status(status, after) => {
                let after = after.map_or_else(String::new, |s| format!("retry-after: {s}\r\n"));
                self.answer(&mut stream, status, &after, b"no").await;
            }
            Mode::Say(text) => self.answer(&mut stream, 200, "", text.as_bytes()).await,
            Mode::Refuse(code, words) => {
                let refusal = |one: &Value| {
                    let error = json!({"code": code, "message": words});
                    json!({"jsonrpc": "2.0", "id": one["id"], "error": error})
                };
                let answer = match asked.is_array() {
                    true => Value::Array(all.iter().map(refusal).collect()),
                    false => refusal(&asked),
                };
                self.answer(&mut stream, 200, "", answer.to_string().as_bytes())
                    .await;
            }
            Mode::Batches(most, in_batch) if asked.is_array() && all.len() > most => {
                let error = json!({"code": -32600, "message": "batch too large"});
                let mut answer = json!({"jsonrpc": "2.0", "id": null, "error": error});
                if in_batch {
                    answer["id"] = all[0]["id"].clone();
                    answer = Value::Array(vec![answer]);
                }
                self.answer(&mut stream, 200, "", answer.to_string().as_bytes())
                    .await;
            }
            Mode::Flood => self.flood(&mut stream).await,
            Mode::ChainId(id) if asked["method"] == "eth_chainId" => {
                let answer =
                    json!({"jsonrpc": "2.0", "id": asked["id"], "result": format!("{id:#x}")});
                self.answer(&mut stream, 200, "", answer.to_string().as_bytes())
                    .await;
            }
            Mode::Well | Mode::Times(..) | Mode::ChainId(_) | Mode::Batches(..) => {
                let asked = self.client.post(&self.target).body(body);
                let asked = asked.header("content-type", "application/json");
                let answer = asked.send().await.ok()?.bytes().await.ok()?;
                let answer = match mode {
                    Mode::ChainId(id) => told(&all, &answer, id),
                    _ => answer.to_vec(),
                };
                self.answer(&mut stream, 200, "", &answer).await;
            }
        }
        Some(())
    }

    fn mode_now(&self) -> Mode {
        let mut mode = self.mode.lock().unwrap();
        let now = mode.clone();
        let Mode::Times(left, inner) = now else {
            return now;
        };
        *mode = match left {
            0 | 1 => Mode::Well,
            left => Mode::Times(left - 1, inner.clone()),
        };
        match left {
            0 => Mode::Well,
            _ => *inner,
        }
    }

    async fn answer(&self, stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} Status\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        let whole = [head.as_bytes(), body].concat();
        // The client may have given up.
        let _ = stream.write_all(&whole).await;
    }

    async fn flood(&self, stream: &mut TcpStream) {
        let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":\"";
        let _ = stream.write_all(head).await;
        let part = vec![b'0'; 1 << 20];
        for _ in 0..100 {
            if stream.write_all(&part).await.is_err() {
                return;
            }
            *self.sent_bytes.lock().unwrap() += part.len() as u64;
        }
    }
}

/// `answer`, with chain `id` for each of `asked` that wants it.
fn told(asked: &[Value], answer: &[u8], id: u64) -> Vec<u8> {
    let mut answer: Value = serde_json::from_slice(answer).unwrap();
    let chains = asked.iter().filter(|one| one["method"] == "eth_chainId");
    for chain in chains {
        for one in answer.as_array_mut().into_iter().flatten() {
            if one["id"] == chain["id"] {
                one["result"] = json!(format!("{id:#x}"));
            }
        }
    }
    answer.to_string().into()
}

async fn question(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&bytes[..end]).ok()?.to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))?;
        let length: usize = length.trim().parse().ok()?;
        let body = end + 4;
        if bytes.len() >= body + length {
            return Some(bytes[body..body + length].to_vec());
        }
    }
}
