//! A node's RPC: calls with a deadline, logged in where the node wants it.
//!
//! Invariant: see [`super`]. A node that finds an error after it has begun to answer says so in the
//! trailer `X-Stream-Error`, under status 200: such an answer is an error here. Called by the stores
//! of blocks and names, and by `probe`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Dialect;
use super::auth::{Login, Token};
use super::error::{RpcError, judge};
use super::http::{Call, File, Http, Reply};

/// How long a login may take.
const LOGIN: Duration = Duration::from_secs(10);
/// Added to what the node itself was told to keep to, so that its own error comes first.
const GRACE: Duration = Duration::from_secs(2);

/// A node's RPC; a handle.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: Http,
    dialect: Dialect,
    login: Login,
    token: Token,
    /// Whether it is known to be what it is taken for.
    met: AtomicBool,
}

/// The answer to a login.
#[derive(Deserialize)]
struct LoggedIn {
    #[serde(rename = "Success")]
    success: bool,
    #[serde(rename = "Text")]
    text: String,
}

impl Client {
    /// A client for the node at `url`; nothing is sent yet.
    ///
    /// # Errors
    /// [`RpcError::Refused`]: not a URL, in one line that does not repeat it.
    pub fn new(url: &str, dialect: Dialect, login: Login) -> Result<Self, RpcError> {
        Ok(Self {
            inner: Arc::new(Inner {
                http: Http::new(url)?,
                dialect,
                login,
                token: Token::default(),
                met: AtomicBool::new(false),
            }),
        })
    }

    /// Which kind of node it is taken for.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.inner.dialect
    }

    /// Whether the node has said that it is what it is taken for.
    pub(super) fn is_met(&self) -> bool {
        self.inner.met.load(Ordering::Relaxed)
    }

    pub(super) fn set_met(&self, met: bool) {
        self.inner.met.store(met, Ordering::Relaxed);
    }

    /// Scheme, host and port of the node.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.inner.http.label
    }

    /// Whether the node is on this machine, as far as its URL says.
    pub(super) fn is_loopback(&self) -> bool {
        self.inner.http.is_loopback()
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
        whole(self.stream(path, args, files, most, limit).await?)
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
        let call = self.to(path, args, files, most);
        let reply = self.exchange(&call, limit, true).await?;
        Ok((reply.body, reply.trailer))
    }

    /// As [`Client::call`], for what would do harm to another node than the one that was [`super::probe::meet`] just
    /// now: it is not sent a second time over another connection.
    ///
    /// # Errors
    /// As [`RpcError`] says; [`RpcError::Broken`] also where another try would go through.
    pub async fn call_once(
        &self,
        path: &str,
        args: &[(&str, &str)],
        files: &[File],
        most: usize,
        limit: Duration,
    ) -> Result<Bytes, RpcError> {
        let call = self.to(path, args, files, most);
        let reply = self.exchange(&call, limit, false).await?;
        whole((reply.body, reply.trailer))
    }

    /// The reply to `call`: logged in again where the node wants that, and where it may be, sent once more.
    async fn exchange(
        &self,
        call: &Call<'_>,
        limit: Duration,
        is_repeated: bool,
    ) -> Result<Reply, RpcError> {
        let http = &self.inner.http;
        let sending = async {
            let token = self.token().await?;
            let reply = match http.send(call, token.as_ref()).await {
                // A connection from before a restart of the node; or a node that turns us away before
                // it has read all that we send, which a small call tells. Every call may be made twice, but
                // for those of [`Client::follow`] and [`Client::call_once`].
                Err(RpcError::Broken(_)) if is_repeated => {
                    let small = match call.files {
                        [] => None,
                        _ => http.send(&call.small(), token.as_ref()).await.ok(),
                    };
                    match small {
                        Some(reply) if self.is_denied(&reply) => reply,
                        _ => http.send(call, token.as_ref()).await?,
                    }
                }
                other => other?,
            };
            if !self.is_denied(&reply) {
                return Ok(reply);
            }
            let fresh = self.log_in(token.as_ref()).await?;
            match Some(&fresh) == token.as_ref() {
                true => Ok(reply),
                false => http.send(call, Some(&fresh)).await,
            }
        };
        let reply = finish(call.path, limit, sending).await;
        self.note(reply)
    }

    fn to<'a>(
        &self,
        path: &'a str,
        args: &'a [(&'a str, &'a str)],
        files: &'a [File],
        most: usize,
    ) -> Call<'a> {
        Call {
            dialect: self.inner.dialect,
            path,
            args,
            files,
            most,
            is_bare: false,
        }
    }

    /// What the node does not say itself, another one may have said, or nobody: who is there is asked anew then.
    fn note<T>(&self, answer: Result<T, RpcError>) -> Result<T, RpcError> {
        if !matches!(answer, Ok(_) | Err(RpcError::Failed(_))) {
            self.set_met(false);
        }
        answer
    }

    /// Whether the node wants a login, or another one. An IPFS node does not tell that from what nobody may do.
    fn is_denied(&self, reply: &Reply) -> bool {
        match reply.status {
            StatusCode::UNAUTHORIZED => true,
            StatusCode::FORBIDDEN => self.inner.dialect == Dialect::Ipfs,
            _ => false,
        }
    }

    /// As [`Client::stream`], for what a node may have to ask others for: it is told to give up after
    /// `patience`, and a moment longer is waited for it to say so.
    ///
    /// # Errors
    /// As [`RpcError`] says.
    pub async fn search(
        &self,
        path: &str,
        args: &[(&str, &str)],
        files: &[File],
        most: usize,
        patience: Duration,
    ) -> Result<(Bytes, Option<String>), RpcError> {
        let limit = format!("{}ms", patience.as_millis());
        let args = [args, &[("timeout", limit.as_str())]].concat();
        let limit = patience + GRACE;
        self.stream(path, &args, files, most, limit).await
    }

    /// As [`Client::stream`], for a call that tells how far it is, a line at a time, and that is not to be made
    /// twice unseen: each line is shown to `moves`, and the last one is the answer. It goes on for as long as
    /// within `patience` a line comes of which `moves` says that it tells more than those before.
    ///
    /// # Errors
    /// As [`RpcError`] says; [`RpcError::Broken`] also where another try would go through.
    pub async fn follow(
        &self,
        path: &str,
        args: &[(&str, &str)],
        most: usize,
        patience: Duration,
        moves: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<(Bytes, Option<String>), RpcError> {
        let followed = async {
            let call = self.to(path, args, &[], most);
            let http = &self.inner.http;
            let token = timeout(patience, self.token()).await;
            let token = token.unwrap_or(Err(RpcError::TimedOut(patience)))?;
            let sending = http.send_while(&call, token.as_ref(), patience, moves);
            let mut reply = sending.await?;
            if self.is_denied(&reply) {
                // It was turned away: nothing was done.
                let token = timeout(patience, self.log_in(token.as_ref())).await;
                let token = token.unwrap_or(Err(RpcError::TimedOut(patience)))?;
                let sending = http.send_while(&call, Some(&token), patience, moves);
                reply = sending.await?;
            }
            match judge(path, &reply) {
                None => Ok((reply.body, reply.trailer)),
                Some(error) => Err(error),
            }
        };
        let answer = followed.await;
        self.note(answer)
    }

    /// Calls `path` without arguments, as if the node were of another kind than it is taken for, and
    /// without a token.
    pub(super) async fn call_as(
        &self,
        dialect: Dialect,
        path: &str,
        most: usize,
        limit: Duration,
    ) -> Result<Bytes, RpcError> {
        let call = Call {
            dialect,
            ..self.to(path, &[], &[], most)
        };
        let sending = async {
            match self.inner.http.send(&call, None).await {
                // A connection from before a restart of the node.
                Err(RpcError::Broken(_)) => self.inner.http.send(&call, None).await,
                other => other,
            }
        };
        let reply = finish(path, limit, sending).await?;
        Ok(reply.body)
    }

    /// Whether `path` is answered to somebody who has no login at all, also none in the URL.
    ///
    /// # Errors
    /// Those of the call, but for a refusal.
    pub(super) async fn is_open(
        &self,
        path: &str,
        most: usize,
        limit: Duration,
    ) -> Result<bool, RpcError> {
        let call = Call {
            is_bare: true,
            ..self.to(path, &[], &[], most)
        };
        match finish(path, limit, self.inner.http.send(&call, None)).await {
            Ok(_) => Ok(true),
            Err(RpcError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The token that calls are made with, where the node wants one.
    async fn token(&self) -> Result<Option<Zeroizing<String>>, RpcError> {
        match (self.inner.token.get(), &self.inner.login) {
            (None, Login::TokenFile(_) | Login::PasswordFile(_)) => {
                Ok(Some(self.log_in(None).await?))
            }
            (token, _) => Ok(token),
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
        let secret = self.inner.login.secret(self.inner.dialect);
        let secret = secret.map_err(RpcError::Refused)?;
        let token = match &self.inner.login {
            Login::Open | Login::TokenFile(_) => secret,
            Login::PasswordFile(_) => self.ask_token(&secret).await?,
        };
        self.inner.token.set(token.clone());
        Ok(token)
    }

    async fn ask_token(&self, password: &str) -> Result<Zeroizing<String>, RpcError> {
        let args = [("arg", password)];
        let call = self.to("dashboard/login", &args, &[], 64 << 10);
        let reply = finish(call.path, LOGIN, self.inner.http.send(&call, None)).await?;
        let answer: LoggedIn = serde_json::from_slice(&reply.body)
            .map_err(|_| RpcError::Transport("its answer to the login is no JSON".into()))?;
        match answer.success {
            true => Ok(Zeroizing::new(answer.text)),
            false => Err(RpcError::Refused(
                "the node refuses the password: look at --node-password-file".into(),
            )),
        }
    }
}

/// The body of an answer that has no error behind it.
pub(crate) fn whole((body, error): (Bytes, Option<String>)) -> Result<Bytes, RpcError> {
    match error {
        None => Ok(body),
        Some(error) => Err(RpcError::Failed(error)),
    }
}

/// The reply to a call of `path`, in time and with a status that is no error.
async fn finish(
    path: &str,
    limit: Duration,
    sending: impl Future<Output = Result<Reply, RpcError>>,
) -> Result<Reply, RpcError> {
    let reply = timeout(limit, sending)
        .await
        .unwrap_or(Err(RpcError::TimedOut(limit)))?;
    match judge(path, &reply) {
        None => Ok(reply),
        Some(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
