//! One HTTP request to a node, and its answer: bounded body, status, trailer.
//!
//! Invariant: an answer is whole or absent; no secret (token, password, path or query of the URL)
//! appears in an error.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use reqwest::header::{CACHE_CONTROL, HeaderMap};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, StatusCode, Url};
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::Dialect;
use super::error::{RpcError, one_line, told};

const CONNECT: Duration = Duration::from_secs(10);
/// A connection without acknowledgements for so long is dead.
const DEAD: Duration = Duration::from_secs(30);
/// Idle connections are closed before nodes close them.
const IDLE: Duration = Duration::from_secs(20);
/// From this announced length on, a body is page-aligned, so that it can be written to disk
/// directly.
const LARGE: usize = 64 << 10;
const BORDER: usize = 4096;
/// The trailer for an error after the answer began.
const STREAM_ERROR: &str = "x-stream-error";

/// A file to send: pieces that are never copied.
#[derive(Clone, Debug, Default)]
pub struct File(Vec<Bytes>);

impl File {
    /// A file of one piece.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }

    /// A file of several.
    #[must_use]
    pub fn of(pieces: Vec<Bytes>) -> Self {
        Self(pieces)
    }

    fn part(&self) -> Result<Part, RpcError> {
        let length = self.0.iter().map(|piece| piece.len() as u64).sum();
        let body = match self.0.as_slice() {
            [piece] => Body::from(piece.clone()),
            _ => {
                let pieces = self.0.clone().into_iter();
                let pieces = pieces.map(Ok::<_, std::convert::Infallible>);
                Body::wrap_stream(futures::stream::iter(pieces))
            }
        };
        Part::stream_with_length(body, length)
            .file_name("file")
            .mime_str("application/octet-stream")
            .map_err(|fault| RpcError::Transport(fault.to_string()))
    }
}

pub(super) struct Call<'a> {
    pub(super) dialect: Dialect,
    pub(super) path: &'a str,
    pub(super) args: &'a [(&'a str, &'a str)],
    pub(super) files: &'a [File],
    /// The most bytes of the answer.
    pub(super) most: usize,
    /// Without the user and password of the node's URL.
    pub(super) is_bare: bool,
}

impl Call<'_> {
    /// A free call that wants the same login.
    pub(super) fn small(&self) -> Self {
        Self {
            path: "version",
            args: &[],
            files: &[],
            ..*self
        }
    }
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    pub(super) trailer: Option<String>,
}

pub(super) struct Http {
    http: reqwest::Client,
    base: Url,
    /// Scheme, host and port: what may be shown.
    pub(super) label: String,
}

impl Http {
    pub(super) fn new(url: &str) -> Result<Self, RpcError> {
        let refused = |why: String| RpcError::Refused(why);
        let mut base =
            Url::parse(url).map_err(|fault| refused(format!("the node's URL: {fault}")))?;
        if base.host_str().is_none() || base.cannot_be_a_base() {
            return Err(refused("the node's URL has no host".into()));
        }
        base.set_fragment(None);
        let port = base
            .port()
            .map_or_else(String::new, |port| format!(":{port}"));
        let host = base.host_str().unwrap_or_default();
        let label = format!("{}://{host}{port}", base.scheme());
        let http = reqwest::Client::builder()
            .user_agent(concat!("pxfs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .tcp_keepalive(DEAD / 2)
            .tcp_user_timeout(DEAD)
            .pool_idle_timeout(IDLE)
            .redirect(reqwest::redirect::Policy::none())
            // A node is on this machine or in its network.
            .no_proxy()
            .build()
            .map_err(|fault| refused(told(&fault)))?;
        Ok(Self { http, base, label })
    }

    /// Sends `call`, with `token` in its dialect's form.
    pub(super) async fn send(
        &self,
        call: &Call<'_>,
        token: Option<&Zeroizing<String>>,
    ) -> Result<Reply, RpcError> {
        let response = self.open(call, token).await?;
        read(call.path, response, call.most).await
    }

    /// As [`Http::send`], but passes each line to `moves` as it comes; the last one is the body.
    /// Ends if no line moves for `limit`.
    pub(super) async fn send_while(
        &self,
        call: &Call<'_>,
        token: Option<&Zeroizing<String>>,
        limit: Duration,
        moves: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<Reply, RpcError> {
        let mut deadline = Instant::now() + limit;
        let late = |_| RpcError::TimedOut(limit);
        let opened = timeout_at(deadline, self.open(call, token)).await;
        let response = opened.map_err(late)??;
        let status = response.status();
        let mut body = reqwest::Body::from(response);
        let (mut line, mut trailer) = (BytesMut::new(), None);
        while let Some(frame) = timeout_at(deadline, body.frame()).await.map_err(late)? {
            let frame = frame.map_err(broken)?;
            for byte in frame.data_ref().into_iter().flatten() {
                // The last line stays, with its end, until the next begins.
                if line.last() == Some(&b'\n') {
                    line.clear();
                }
                line.extend_from_slice(&[*byte]);
                if *byte == b'\n' && moves(&line) {
                    deadline = Instant::now() + limit;
                }
            }
            if line.len() > call.most {
                return Err(too_long(call.path, call.most));
            }
            trailer = trailer.or(frame.trailers_ref().and_then(error_in));
        }
        Ok(Reply {
            status,
            body: line.freeze(),
            trailer,
        })
    }

    async fn open(
        &self,
        call: &Call<'_>,
        token: Option<&Zeroizing<String>>,
    ) -> Result<reqwest::Response, RpcError> {
        let Call {
            dialect,
            path,
            args,
            files,
            is_bare,
            ..
        } = *call;
        // Without its arguments, which may include a login.
        tracing::trace!(path, at = self.label, "a node is asked");
        let mut url = self.base.clone();
        if is_bare {
            // A URL with a host has both.
            let _ = url.set_username("");
            let _ = url.set_password(None);
        }
        let below = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{below}/{}/{path}", dialect.base()));
        for (name, value) in args {
            url.query_pairs_mut().append_pair(name, value);
        }
        let bearer = match (token, dialect) {
            (Some(token), Dialect::Btfs) => {
                url.query_pairs_mut().append_pair("token", token);
                None
            }
            (token, _) => token,
        };
        let mut request = self.http.post(url).header("TE", "trailers");
        if let Some(token) = bearer {
            request = request.bearer_auth(token.as_str());
        }
        if !files.is_empty() {
            let mut form = Form::new();
            for file in files {
                form = form.part("file", file.part()?);
            }
            request = request.multipart(form);
        }
        request.send().await.map_err(broken)
    }

    /// GETs `path` (`ipfs/CID`) with this query; with `is_held`, only what the other side has
    /// itself.
    pub(super) async fn get(
        &self,
        path: &str,
        query: (&str, &str),
        is_held: bool,
        most: usize,
    ) -> Result<Reply, RpcError> {
        let mut url = self.base.clone();
        let below = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{below}/{path}"));
        url.query_pairs_mut().append_pair(query.0, query.1);
        let mut request = self.http.get(url);
        if is_held {
            request = request.header(CACHE_CONTROL, "only-if-cached");
        }
        let response = request.send().await.map_err(broken)?;
        read(path, response, most).await
    }

    /// Whether the URL is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

pub(super) fn broken(fault: reqwest::Error) -> RpcError {
    match fault.is_connect() {
        true if is_refused(&fault) => RpcError::Away(told(&fault)),
        true => RpcError::Transport(told(&fault)),
        false => RpcError::Broken(told(&fault)),
    }
}

/// Whether the other side, or the network, refused at once.
fn is_refused(fault: &reqwest::Error) -> bool {
    let first = std::error::Error::source(fault);
    std::iter::successors(first, |cause| cause.source()).any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|fault| {
            matches!(
                fault.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
            )
        })
    })
}

/// The whole answer to a call of `path`, at most `most` bytes.
pub(super) async fn read(
    path: &str,
    response: reqwest::Response,
    most: usize,
) -> Result<Reply, RpcError> {
    let status = response.status();
    // The announced length is trusted only up to the limit.
    let announced = response.content_length().unwrap_or(0).min(most as u64);
    let room = usize::try_from(announced).unwrap_or(0);
    let mut body = reqwest::Body::from(response);
    let border = if room < LARGE { 1 } else { BORDER };
    let mut bytes = BytesMut::with_capacity(room + border);
    let begin = bytes.as_ptr().align_offset(border).min(border);
    bytes.resize(begin, 0);
    let mut trailer = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() - begin + data.len() > most {
                return Err(too_long(path, most));
            }
            bytes.extend_from_slice(data);
        }
        trailer = trailer.or(frame.trailers_ref().and_then(error_in));
    }
    bytes.advance(begin);
    Ok(Reply {
        status,
        body: bytes.freeze(),
        trailer,
    })
}

fn error_in(trailers: &HeaderMap) -> Option<String> {
    let error = trailers.get(STREAM_ERROR)?;
    Some(one_line(error.as_bytes())).filter(|text| !text.is_empty())
}

fn too_long(path: &str, most: usize) -> RpcError {
    RpcError::Transport(format!(
        "its answer to `{path}` is longer than {most} bytes"
    ))
}
