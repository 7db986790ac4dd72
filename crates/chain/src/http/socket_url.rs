//! The WebSocket endpoints among a chain's URLs.

use std::sync::Arc;

use alloy::transports::http::reqwest;

use super::server::label_of;
use super::{ChainError, Limits, broken};

#[derive(Clone, Debug)]
pub(crate) struct SocketUrl {
    label: Arc<str>,
    /// With `http` for `ws`, for the handshake.
    url: reqwest::Url,
    client: reqwest::Client,
}

impl SocketUrl {
    /// Splits `urls` into WebSocket endpoints and request URLs: the others, or if there are none, the same
    /// URLs over HTTP.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] if one is no URL.
    pub(crate) fn among(urls: &[&str]) -> Result<(Vec<Self>, Vec<String>), ChainError> {
        let (sockets, mut http): (Vec<&str>, Vec<&str>) =
            urls.iter().partition(|url| over_http(url).is_some());
        let twins: Vec<String> = sockets.iter().filter_map(|url| over_http(url)).collect();
        if http.is_empty() {
            http = twins.iter().map(String::as_str).collect();
        }
        let http = http.into_iter().map(str::to_owned).collect();
        if sockets.is_empty() {
            return Ok((Vec::new(), http));
        }
        // A socket outlives request timeouts, and begins as HTTP/1.1.
        let client = reqwest::Client::builder()
            .connect_timeout(Limits::default().connect)
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .build()
            .map_err(|fault| broken(format!("gets no client: {}", fault.without_url())))?;
        let sockets = sockets.iter().zip(&twins).map(|(url, twin)| {
            let parse =
                |url: &str| reqwest::Url::parse(url).map_err(|f| format!("is not a URL: {f}"));
            let label = label_of(&parse(url)?)?;
            Ok(Self {
                label: label.into(),
                url: parse(twin)?,
                client: client.clone(),
            })
        });
        let sockets: Result<_, String> = sockets.collect();
        Ok((sockets.map_err(broken)?, http))
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn get(&self) -> reqwest::RequestBuilder {
        self.client.get(self.url.clone())
    }
}

/// The URL with an HTTP scheme; `None` unless it is a WebSocket URL.
fn over_http(url: &str) -> Option<String> {
    let rest = url.strip_prefix("ws")?;
    let is_socket = rest.starts_with("://") || rest.starts_with("s://");
    is_socket.then(|| format!("http{rest}"))
}
