//! Resolves names through a gateway, which gives the content without the record.
//!
//! Invariant: nothing from it is trusted: the caller verifies it by the name's key. Only valid
//! names get into a URL.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{StatusCode, Url};

use super::NameError;
use super::key::public_key;
use crate::rpc::RpcError;
use crate::rpc::guard::Guard;

const PATIENCE: Duration = Duration::from_secs(15);
/// The longest answer read; usage metadata is never longer.
const MOST_BYTES: usize = 64 << 10;
/// Stands for the name in a URL.
const PLACE: &str = "{name}";

/// A gateway that resolves names. Cheap to clone.
#[derive(Clone)]
pub struct NameGateway {
    guard: Guard,
    /// Contains [`PLACE`].
    url: String,
    label: String,
}

impl fmt::Display for NameGateway {
    /// Scheme and host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl NameGateway {
    /// The gateway at `url`, in which `{name}` stands for a name; without it, names are below `/ipns/`.
    ///
    /// # Errors
    /// [`RpcError::Refused`]: no URL, or a forbidden address, in one line that does not repeat it.
    pub fn new(url: &str, guard: Guard) -> Result<Self, RpcError> {
        let url = match url.matches(PLACE).count() {
            0 => format!("{}/ipns/{PLACE}", url.trim_end_matches('/')),
            1 => url.to_owned(),
            _ => return Err(RpcError::Refused("its URL names {name} twice".to_owned())),
        };
        let parsed = parse(&url)?;
        // A name in the host would make us ask any host that a name spells.
        let Some(host) = parsed.host_str().filter(|host| !host.contains(['{', '%'])) else {
            return Err(RpcError::Refused("its URL has no host".to_owned()));
        };
        guard.check(&parsed)?;
        let port = parsed.port().map(|port| format!(":{port}"));
        let label = format!("{}://{host}{}", parsed.scheme(), port.unwrap_or_default());
        Ok(Self { guard, url, label })
    }

    /// The small file that `name` leads to.
    ///
    /// # Errors
    /// [`NameError::Missing`] if it leads nowhere, [`NameError::Permanent`] if the gateway may not be asked,
    /// else [`NameError::Transient`].
    pub async fn fetch(&self, name: &str) -> Result<Bytes, NameError> {
        let url = match public_key(name) {
            Ok(_) => parse(&self.url.replace(PLACE, name)).map(with_type),
            Err(fault) => Err(RpcError::Refused(fault.to_string())),
        };
        let fetched = match url {
            Ok(url) => self.guard.get(&url, MOST_BYTES, PATIENCE).await,
            Err(fault) => Err(fault),
        };
        match fetched {
            Ok(fetched) => match fetched.status {
                StatusCode::OK => Ok(fetched.body),
                StatusCode::NOT_FOUND | StatusCode::GONE => {
                    Err(NameError::Missing(name.to_owned()))
                }
                status => Err(NameError::Transient(format!("it answers {status}"))),
            },
            Err(fault) if fault.is_permanent() => Err(NameError::Permanent(fault.to_string())),
            Err(fault) => Err(NameError::Transient(fault.to_string())),
        }
    }
}

/// A BTFS gateway sends no raw leaf unless a file name tells its type.
fn with_type(mut url: Url) -> Url {
    if !url.query_pairs().any(|(key, _)| key == "filename") {
        url.query_pairs_mut().append_pair("filename", "usage.json");
    }
    url
}

fn parse(url: &str) -> Result<Url, RpcError> {
    Url::parse(url).map_err(|fault| RpcError::Refused(format!("its URL: {fault}")))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Path;
    use axum::routing::get;

    use super::*;
    use crate::names::key::NameKey;
    use crate::rpc::guard::Reach;

    #[tokio::test]
    async fn names_are_asked_for_where_the_url_says_and_nothing_else_is() {
        let name = NameKey::from_seed(&[3; 32]).name();
        let given = name.clone();
        let answer = move |Path(asked): Path<String>| async move {
            match asked == given {
                true => Ok("what it leads to"),
                false => Err(StatusCode::NOT_FOUND),
            }
        };
        let app = Router::new()
            .route("/ipns/{name}", get(answer.clone()))
            .route("/deep/btns/{name}/", get(answer))
            .route("/broken/{name}", get(|| async { StatusCode::BAD_GATEWAY }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let guard = Guard::new(Reach::Everywhere).unwrap();
        let gateway = |url: String| NameGateway::new(&url, guard.clone()).unwrap();
        for url in [
            at.clone(),
            format!("{at}/"),
            format!("{at}/deep/btns/{{name}}/"),
        ] {
            let gateway = gateway(url);
            assert_eq!(gateway.fetch(&name).await.unwrap(), "what it leads to");
            let other = NameKey::from_seed(&[4; 32]).name();
            let missing = NameError::Missing(other.clone());
            assert_eq!(gateway.fetch(&other).await, Err(missing));
            assert_eq!(gateway.to_string(), at);
            for strange in ["../../secret", "k51?x", ""] {
                let refused = gateway.fetch(strange).await;
                assert!(matches!(refused, Err(NameError::Permanent(_))), "{strange}");
            }
        }
        let broken = gateway(format!("{at}/broken/{{name}}"));
        let fault = broken.fetch(&name).await.unwrap_err();
        assert!(fault.to_string().contains("502"), "{fault}");
        let shut = Guard::new(Reach::Public(Vec::new())).unwrap();
        assert!(NameGateway::new(&at, shut.clone()).is_err());
        let by_name = at.replace("127.0.0.1", "localhost");
        let shut = NameGateway::new(&by_name, shut).unwrap().fetch(&name).await;
        assert!(matches!(shut, Err(NameError::Permanent(_))), "{shut:?}");
        for url in ["http://{name}.example", "http://a/{name}/{name}", "nowhere"] {
            assert!(NameGateway::new(url, guard.clone()).is_err(), "{url}");
        }
    }
}
