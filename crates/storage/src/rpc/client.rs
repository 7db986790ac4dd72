//! A node's RPC: calls with a deadline, and a login if the node wants it.
//!
//! Invariant: see [`super`]. A node that fails after it has begun to answer says so in the trailer
//! `X-Stream-Error`, under status 200: here that is an error.

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

const LOGIN: Duration = Duration::from_secs(10);
/// Added to the node's own timeout, so that its error comes first.
const GRACE: Duration = Duration::from_secs(2);

/// A handle on a node's RPC.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: Http,
    dialect: Dialect,
    login: Login,
    token: Token,
    /// Whether its kind is confirmed.
    met: AtomicBool,
}

#[derive(Deserialize)]
struct LoggedIn {
    #[serde(rename = "Success")]
    success: bool,
    #[serde(rename = "Text")]
    text: String,
}

impl Client {
    /// A client for the node at `url`; sends nothing yet.
    ///
    /// # Errors
    /// [`RpcError::Refused`]: no URL, in one line that does not repeat it.
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

    /// The expected kind of node.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.inner.dialect
    }

    /// Whether the node has confirmed its kind.
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

    /// Whether the URL is on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.inner.http.is_loopback()
    }

    /// Calls `path` (`block/get`) with `args` in the query and `files` in the body; returns the whole body,
    /// at most `most` bytes. Ends after `limit`, or with the trailer's error.
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

    /// As [`Client::call`], but returns an error in the trailer beside the body before it.
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

    /// As [`Client::call`], for calls that would harm another node than the one just [`super::probe::meet`]:
    /// never resent over another connection.
    ///
    /// # Errors
    /// As [`RpcError`] says; [`RpcError::Broken`] even if a retry would succeed.
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

    /// Sends `call`, with a new login if needed, and once more if allowed.
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
                // A connection from before the node's restart; or a node that refuses before it has
                // read everything, which a small call detects. Every call is repeatable except
                // those of [`Client::follow`] and [`Client::call_once`].
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

    /// An answer not from the node itself may come from another, or nobody: then its kind is asked
    /// anew.
    fn note<T>(&self, answer: Result<T, RpcError>) -> Result<T, RpcError> {
        if !matches!(answer, Ok(_) | Err(RpcError::Failed(_))) {
            self.set_met(false);
        }
        answer
    }

    /// Whether the node wants a (new) login. An IPFS node does not tell that from forbidden calls.
    fn is_denied(&self, reply: &Reply) -> bool {
        match reply.status {
            StatusCode::UNAUTHORIZED => true,
            StatusCode::FORBIDDEN => self.inner.dialect == Dialect::Ipfs,
            _ => false,
        }
    }

    /// As [`Client::stream`], for what a node may search in its network: it is told to give up after
    /// `patience`, and gets a moment longer to say so.
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

    /// As [`Client::stream`], for a non-repeatable call that reports progress in lines: `moves` gets each
    /// line, and the last is the answer. It continues while within each `patience` a line comes for which
    /// `moves` returns true.
    ///
    /// # Errors
    /// As [`RpcError`] says; [`RpcError::Broken`] even if a retry would succeed.
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
                // Refused: nothing was done.
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

    /// Calls `path` without arguments or token, as if the node were of the given kind.
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
                // A connection from before the node's restart.
                Err(RpcError::Broken(_)) => self.inner.http.send(&call, None).await,
                other => other,
            }
        };
        let reply = finish(path, limit, sending).await?;
        Ok(reply.body)
    }

    /// Whether `path` answers without any login, even one in the URL.
    ///
    /// # Errors
    /// The call's, except a refusal.
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

    /// The token for calls, if the node wants one.
    async fn token(&self) -> Result<Option<Zeroizing<String>>, RpcError> {
        match (self.inner.token.get(), &self.inner.login) {
            (None, Login::TokenFile(_) | Login::PasswordFile(_)) => {
                Ok(Some(self.log_in(None).await?))
            }
            (token, _) => Ok(token),
        }
    }

    /// A token other than `refused`, which the node has just rejected.
    async fn log_in(
        &self,
        refused: Option<&Zeroizing<String>>,
    ) -> Result<Zeroizing<String>, RpcError> {
        let _one = self.inner.token.renewing.lock().await;
        if let Some(token) = self.inner.token.get()
            && Some(&token) != refused
        {
            // Somebody else has logged in meanwhile.
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

/// The body, unless an error followed it.
pub(crate) fn whole((body, error): (Bytes, Option<String>)) -> Result<Bytes, RpcError> {
    match error {
        None => Ok(body),
        Some(error) => Err(RpcError::Failed(error)),
    }
}

/// The reply to a call of `path`, in time and without an error status.
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
