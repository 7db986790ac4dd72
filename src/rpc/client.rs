//! One call: arguments in the query, files as multipart, the answer with its trailer.
//!
//! Invariant: see [`super`]. A node that finds an error after it has begun to answer says so in the
//! trailer `X-Stream-Error`, under status 200: such an answer is an error here.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, StatusCode, Url};
use serde::Deserialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Dialect;
use super::auth::{Login, Token};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection whose other side acknowledges nothing for so long is dead.
const DEAD: Duration = Duration::from_secs(30);
/// Idle connections are kept so long: less than nodes keep them.
const IDLE: Duration = Duration::from_secs(20);
/// How long a login may take.
const LOGIN: Duration = Duration::from_secs(10);
/// The longest error text that is repeated, in characters.
const LONGEST_TEXT: usize = 300;
/// The trailer of an error that came after the answer had begun.
const STREAM_ERROR: &str = "x-stream-error";

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RpcError {
    /// It cannot be reached, or what it says is not understood.
    #[error("{0}")]
    Transport(String),
    /// The connection broke in the middle.
    #[error("{0}")]
    Broken(String),
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It answered with an error of its own: its text.
    #[error("{0}")]
    Failed(String),
    /// It will not do this for us however often it is asked.
    #[error("{0}")]
    Refused(String),
    /// It has no such call.
    #[error("has no call `{0}`")]
    Unknown(String),
}

/// A file to send: its bytes in pieces, none of which is copied.
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

/// A node's RPC; a handle.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    base: Url,
    /// Scheme, host and port: what may be shown.
    label: String,
    dialect: Dialect,
    login: Login,
    token: Token,
}

/// The JSON of an error.
#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "Message")]
    message: String,
}

/// The answer to a login.
#[derive(Deserialize)]
struct LoggedIn {
    #[serde(rename = "Success")]
    success: bool,
    #[serde(rename = "Text")]
    text: String,
}

/// What goes out.
struct Call<'a> {
    base: &'static str,
    path: &'a str,
    args: &'a [(&'a str, &'a str)],
    files: &'a [File],
    most: usize,
}

impl Call<'_> {
    /// One that wants the same login, and costs nothing.
    fn small(&self) -> Self {
        Self {
            path: "version",
            args: &[],
            files: &[],
            ..*self
        }
    }
}

/// What came back over HTTP.
struct Reply {
    status: StatusCode,
    body: Bytes,
    trailer: Option<String>,
}

impl Client {
    /// A client for the node at `url`; nothing is sent yet.
    ///
    /// # Errors
    /// [`RpcError::Refused`]: not a URL, in one line that does not repeat it.
    pub fn new(url: &str, dialect: Dialect, login: Login) -> Result<Self, RpcError> {
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
            // A node stands on this machine or in its network.
            .no_proxy()
            .build()
            .map_err(|fault| refused(told(&fault)))?;
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                base,
                label,
                dialect,
                login,
                token: Token::default(),
            }),
        })
    }

    /// Which kind of node it is taken for.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.inner.dialect
    }

    /// Scheme, host and port of the node.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.inner.label
    }

    /// Calls `path` (`block/get`) with `args` in the query and `files` in the body; the whole body of
    /// the answer, of at most `most` bytes. Ends after `limit`, or with the error of the trailer.
    ///
    /// # Errors
    /// As [`RpcError`] says.
    pub async fn call(
        &self,
        path: &str,
        args: &[(&str, &str)],
        files: &[File],
        most: usize,
        limit: Duration,
    ) -> Result<Bytes, RpcError> {
        match self.stream(path, args, files, most, limit).await? {
            (body, None) => Ok(body),
            (_, Some(error)) => Err(RpcError::Failed(error)),
        }
    }

    /// As [`Client::call`], and what came before an error in the trailer, beside that error.
    ///
    /// # Errors
    /// As [`RpcError`] says.
    pub async fn stream(
        &self,
        path: &str,
        args: &[(&str, &str)],
        files: &[File],
        most: usize,
        limit: Duration,
    ) -> Result<(Bytes, Option<String>), RpcError> {
        let call = async {
            let token = self.inner.token.get();
            let call = Call {
                base: self.inner.dialect.base(),
                path,
                args,
                files,
                most,
            };
            let token = match (token, &self.inner.login) {
                (None, Login::TokenFile(_) | Login::PasswordFile(_)) => {
                    Some(self.log_in(None).await?)
                }
                (token, _) => token,
            };
            let reply = match self.send(&call, token.as_ref()).await {
                // A connection from before a restart of the node; or a node that turns us away before
                // it has read all that we send, which a small call tells. Every call may be made twice.
                Err(RpcError::Broken(_)) => {
                    let small = match files {
                        [] => None,
                        _ => self.send(&call.small(), token.as_ref()).await.ok(),
                    };
                    match small {
                        Some(reply) if reply.status == StatusCode::UNAUTHORIZED => reply,
                        _ => self.send(&call, token.as_ref()).await?,
                    }
                }
                other => other?,
            };
            if reply.status != StatusCode::UNAUTHORIZED {
                return Ok(reply);
            }
            let token = self.log_in(token.as_ref()).await?;
            self.send(&call, Some(&token)).await
        };
        let reply = timeout(limit, call)
            .await
            .unwrap_or(Err(RpcError::TimedOut(limit)))?;
        match judge(path, &reply) {
            None => Ok((reply.body, reply.trailer)),
            Some(error) => Err(error),
        }
    }

    /// Calls `path` without arguments, as if the node were of another kind than it is taken for, and
    /// without a login.
    pub(super) async fn call_as(
        &self,
        dialect: Dialect,
        path: &str,
        most: usize,
        limit: Duration,
    ) -> Result<Bytes, RpcError> {
        let call = Call {
            base: dialect.base(),
            path,
            args: &[],
            files: &[],
            most,
        };
        let reply = timeout(limit, self.send(&call, None))
            .await
            .unwrap_or(Err(RpcError::TimedOut(limit)))?;
        match judge(path, &reply) {
            None => Ok(reply.body),
            Some(error) => Err(error),
        }
    }

    /// A token other than `refused`, which the node has just turned away.
    async fn log_in(
        &self,
        refused: Option<&Zeroizing<String>>,
    ) -> Result<Zeroizing<String>, RpcError> {
        let _one = self.inner.token.renewing.lock().await;
        if let Some(token) = self.inner.token.get()
            && Some(&token) != refused
        {
            // Somebody else has logged in while we waited.
            return Ok(token);
        }
        let secret = self.inner.login.secret().map_err(RpcError::Refused)?;
        let token = match &self.inner.login {
            Login::Open | Login::TokenFile(_) => secret,
            Login::PasswordFile(_) => self.ask_token(&secret).await?,
        };
        self.inner.token.set(token.clone());
        Ok(token)
    }

    async fn ask_token(&self, password: &str) -> Result<Zeroizing<String>, RpcError> {
        let call = Call {
            base: self.inner.dialect.base(),
            path: "dashboard/login",
            args: &[("arg", password)],
            files: &[],
            most: 64 << 10,
        };
        let reply = timeout(LOGIN, self.send(&call, None))
            .await
            .unwrap_or(Err(RpcError::TimedOut(LOGIN)))?;
        if let Some(error) = judge("dashboard/login", &reply) {
            return Err(error);
        }
        let answer: LoggedIn = serde_json::from_slice(&reply.body)
            .map_err(|_| RpcError::Transport("its answer to the login is no JSON".into()))?;
        match answer.success {
            true => Ok(Zeroizing::new(answer.text)),
            false => Err(RpcError::Refused(
                "the node refuses the password: look at --node-password-file".into(),
            )),
        }
    }

    async fn send(
        &self,
        call: &Call<'_>,
        token: Option<&Zeroizing<String>>,
    ) -> Result<Reply, RpcError> {
        let Call {
            base,
            path,
            args,
            files,
            most,
        } = *call;
        let mut url = self.inner.base.clone();
        let below = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{below}/{base}/{path}"));
        for (name, value) in args {
            url.query_pairs_mut().append_pair(name, value);
        }
        let bearer = match (token, self.inner.dialect) {
            (Some(token), Dialect::Btfs) => {
                url.query_pairs_mut().append_pair("token", token);
                None
            }
            (token, _) => token,
        };
        let mut request = self.inner.http.post(url).header("TE", "trailers");
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
        let broken = |fault: reqwest::Error| match fault.is_connect() {
            true => RpcError::Transport(told(&fault)),
            false => RpcError::Broken(told(&fault)),
        };
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        let mut body = reqwest::Body::from(response);
        let (mut bytes, mut trailer) = (BytesMut::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > most {
                    return Err(RpcError::Transport(format!(
                        "its answer to `{path}` is longer than {most} bytes"
                    )));
                }
                bytes.extend_from_slice(data);
            } else if let Some(error) = frame.trailers_ref().and_then(|t| t.get(STREAM_ERROR)) {
                trailer = Some(one_line(error.as_bytes()));
            }
        }
        Ok(Reply {
            status,
            body: bytes.freeze(),
            trailer: trailer.filter(|text| !text.is_empty()),
        })
    }
}

/// The error that a status tells; `None` for success.
fn judge(path: &str, reply: &Reply) -> Option<RpcError> {
    if reply.status == StatusCode::OK {
        return None;
    }
    let message = serde_json::from_slice::<Failure>(&reply.body).map(|failure| failure.message);
    let is_json = message.is_ok();
    let message = message.map_or_else(|_| one_line(&reply.body), |m| one_line(m.as_bytes()));
    let status = reply.status.as_u16();
    let told = match message.is_empty() {
        true => format!("answers {status} to `{path}`"),
        false => format!("answers {status} to `{path}`: {message}"),
    };
    Some(match status {
        404 if !is_json => RpcError::Unknown(path.to_owned()),
        401 => RpcError::Refused(format!("{told}: it does not take our token")),
        408 | 429 => RpcError::Failed(told),
        400..=499 => RpcError::Refused(told),
        _ if is_json => RpcError::Failed(message),
        _ => RpcError::Failed(told),
    })
}

/// The first line of a text, of a bounded length.
fn one_line(text: &[u8]) -> String {
    let head = text.get(..4 * LONGEST_TEXT).unwrap_or(text);
    let text = String::from_utf8_lossy(head);
    let line = text.lines().next().unwrap_or_default().trim();
    line.chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_TEXT)
        .collect()
}

/// What went wrong, without the URL, down to the first cause.
fn told(fault: &reqwest::Error) -> String {
    let mut text = match (fault.is_connect(), fault.is_body() || fault.is_decode()) {
        (true, _) => "cannot be reached".to_owned(),
        (_, true) => "its answer broke off".to_owned(),
        _ => "the connection broke".to_owned(),
    };
    let mut cause = std::error::Error::source(fault);
    while let Some(next) = cause.and_then(std::error::Error::source) {
        cause = Some(next);
    }
    if let Some(cause) = cause {
        text.push_str(": ");
        text.push_str(&one_line(cause.to_string().as_bytes()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &'static str) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            body: Bytes::from_static(body.as_bytes()),
            trailer: None,
        }
    }

    #[test]
    fn what_a_node_will_never_do_is_told_from_what_it_may_do_later() {
        let json = r#"{"Message":"blockstore: is full","Code":0,"Type":"error"}"#;
        assert_eq!(judge("id", &reply(200, "")), None);
        assert_eq!(
            judge("block/put", &reply(500, json)),
            Some(RpcError::Failed("blockstore: is full".into()))
        );
        assert_eq!(
            judge("name/put", &reply(404, "404 page not found\n")),
            Some(RpcError::Unknown("name/put".into()))
        );
        for later in [429, 408, 500, 502, 503] {
            assert!(matches!(
                judge("id", &reply(later, "")),
                Some(RpcError::Failed(_))
            ));
        }
        for never in [400, 401, 403, 405] {
            assert!(matches!(
                judge("id", &reply(never, "no")),
                Some(RpcError::Refused(_))
            ));
        }
    }

    #[test]
    fn what_a_node_writes_cannot_fill_a_log() {
        let long = "x".repeat(100_000);
        assert_eq!(one_line(long.as_bytes()).len(), LONGEST_TEXT);
        assert_eq!(one_line(b"one\ntwo"), "one");
        assert_eq!(one_line(b"a\x1b[31mb\xff"), "a[31mb\u{fffd}");
    }

    #[tokio::test]
    async fn no_secret_of_a_url_is_in_an_error() {
        // Nobody listens on port 1.
        let url = "http://user:PASSWORD@127.0.0.1:1/PATHKEY?key=QUERYKEY";
        let client = Client::new(url, Dialect::Btfs, Login::default()).unwrap();
        client.inner.token.set(Zeroizing::new("TOKEN".into()));
        let limit = Duration::from_secs(20);
        let error = client.call("id", &[], &[], 10, limit).await.unwrap_err();
        let text = format!("{error} {error:?} {}", client.label());
        assert!(text.contains("cannot be reached"), "{text}");
        for secret in ["PASSWORD", "PATHKEY", "QUERYKEY", "TOKEN"] {
            assert!(!text.contains(secret), "{text}");
        }
        let error = Client::new("http://:SECRET", Dialect::Btfs, Login::default());
        assert!(!format!("{:?}", error.err()).contains("SECRET"));
    }
}
