//! GETs from strangers: gateways, and other oracle operators.
//!
//! Invariant: it connects only to checked addresses, the ones just resolved (so later DNS changes
//! gain nothing), also after a redirect, and never through a proxy; every answer is bounded in
//! bytes, time and redirects.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CACHE_CONTROL, LOCATION};
use reqwest::{StatusCode, Url};
use tokio::time::timeout;

use super::error::RpcError;
use super::http::{broken, read};

const CONNECT: Duration = Duration::from_secs(5);
const REDIRECTS: usize = 3;

/// An address prefix: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    ip: IpAddr,
    bits: u32,
}

impl Prefix {
    fn holds(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let rest = 32 - self.bits;
                own.to_bits().checked_shr(rest) == ip.to_bits().checked_shr(rest)
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let rest = 128 - self.bits;
                own.to_bits().checked_shr(rest) == ip.to_bits().checked_shr(rest)
            }
            _ => false,
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is not an address: say 10.1.2.3 or 10.0.0.0/8");
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits.parse().map_err(|_| refused())?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| refused())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        match bits <= most {
            true => Ok(Self { ip, bits }),
            false => Err(refused()),
        }
    }
}

/// Which addresses may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All: whoever configured the URL vouches for it.
    Everywhere,
    /// Public ones, and these.
    Public(Vec<Prefix>),
}

impl Reach {
    fn allows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        match self {
            Self::Everywhere => true,
            Self::Public(more) => is_public(ip) || more.iter().any(|prefix| prefix.holds(ip)),
        }
    }
}

/// Whether an address is public (IANA's registries of special addresses).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && b & 0xc0 == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && b & 0xfe == 18))
        }
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// In the assigned range (2000::/3), except protocols, tunnels and documentation.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    a & 0xe000 == 0x2000
        && !(a == 0x2001 && b < 0x0200)
        && !(a == 0x2001 && b == 0x0db8)
        && a != 0x2002
        && a & 0xfff0 != 0x3ff0
}

/// A forbidden address, as an error that passes through the libraries.
#[derive(Debug)]
struct Private(String);

impl fmt::Display for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is an address of a private network: --allow-address permits it",
            self.0
        )
    }
}

impl Error for Private {}

/// Resolves names to permitted addresses only; those are connected to.
struct Checked(Arc<Reach>);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let all: Vec<SocketAddr> = found.collect();
            let open = all.iter().copied();
            let open: Vec<_> = open.filter(|at| reach.allows(at.ip())).collect();
            match (open.is_empty(), all.first()) {
                (true, Some(at)) => {
                    let what = format!("{} ({})", name.as_str(), at.ip());
                    Err(Private(what).into())
                }
                _ => Ok(Box::new(open.into_iter()) as Addrs),
            }
        })
    }
}

/// An answer.
#[derive(Debug)]
pub struct Fetched {
    /// The last answer's status.
    pub status: StatusCode,
    /// Its bytes.
    pub body: Bytes,
}

/// Fetches. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    http: reqwest::Client,
    reach: Arc<Reach>,
}

impl Guard {
    /// One that may reach these addresses.
    ///
    /// # Errors
    /// [`RpcError::Refused`]: this machine gives no client.
    pub fn new(reach: Reach) -> Result<Self, RpcError> {
        let reach = Arc::new(reach);
        let http = reqwest::Client::builder()
            .user_agent(concat!("pxfs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .dns_resolver(Checked(Arc::clone(&reach)))
            // Followed here, each checked.
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would connect for us, unchecked.
            .no_proxy()
            .build()
            .map_err(|fault| RpcError::Refused(super::error::told(&fault)))?;
        Ok(Self { http, reach })
    }

    /// Fetches `url`: at most `most` bytes, within `limit`.
    ///
    /// # Errors
    /// [`RpcError::Refused`] for a forbidden address; else as [`RpcError`] says.
    pub async fn get(&self, url: &Url, most: usize, limit: Duration) -> Result<Fetched, RpcError> {
        let fetched = timeout(limit, self.follow(url.clone(), most)).await;
        fetched.unwrap_or(Err(RpcError::TimedOut(limit)))
    }

    async fn follow(&self, mut url: Url, most: usize) -> Result<Fetched, RpcError> {
        for _ in 0..=REDIRECTS {
            self.check(&url)?;
            let request = self.http.get(url.clone()).header(CACHE_CONTROL, "no-cache");
            let response = request.send().await.map_err(unreached)?;
            let to = response.headers().get(LOCATION);
            if !response.status().is_redirection() || to.is_none() {
                let reply = read("GET", response, most).await?;
                return Ok(Fetched {
                    status: reply.status,
                    body: reply.body,
                });
            }
            let to = to.and_then(|to| to.to_str().ok());
            let next = to.and_then(|to| url.join(to).ok());
            let Some(next) = next else {
                return Err(RpcError::Transport("it redirects to no URL".to_owned()));
            };
            if url.scheme() == "https" && next.scheme() != "https" {
                let why = "it redirects to http, which nobody vouches for".to_owned();
                return Err(RpcError::Transport(why));
            }
            url = next;
        }
        let why = format!("it redirects more than {REDIRECTS} times");
        Err(RpcError::Transport(why))
    }

    /// Checks addresses in the URL itself, for which no resolver is asked.
    ///
    /// # Errors
    /// [`RpcError::Refused`].
    pub fn check(&self, url: &Url) -> Result<(), RpcError> {
        if !matches!(url.scheme(), "http" | "https") {
            let why = format!("{} is not http or https", url.scheme());
            return Err(RpcError::Refused(why));
        }
        let host = url.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        match ip {
            Ok(ip) if !self.reach.allows(ip) => {
                Err(RpcError::Refused(Private(ip.to_string()).to_string()))
            }
            _ => Ok(()),
        }
    }
}

fn unreached(fault: reqwest::Error) -> RpcError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&fault);
    while let Some(inner) = cause {
        if let Some(private) = inner.downcast_ref::<Private>() {
            return RpcError::Refused(private.to_string());
        }
        cause = inner.source();
    }
    broken(fault)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::extract::State;
    use axum::response::Redirect;
    use axum::routing::get;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn only_addresses_that_anybody_may_reach_are_public() {
        let public = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "100.63.0.1"];
        let private = [
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.0.1",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:1::",
            "2001:db8::1",
        ];
        let reach = Reach::Public(Vec::new());
        for ip in public {
            assert!(reach.allows(ip.parse().unwrap()), "{ip}");
        }
        for ip in private {
            assert!(!reach.allows(ip.parse().unwrap()), "{ip}");
            assert!(Reach::Everywhere.allows(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn what_is_permitted_is_no_more_than_was_said() {
        let permit = |text: &str| Reach::Public(vec![text.parse().unwrap()]);
        let (ten, one) = (permit("10.0.0.0/8"), permit("127.0.0.2"));
        assert!(ten.allows("10.255.0.1".parse().unwrap()));
        assert!(!ten.allows("172.16.0.1".parse().unwrap()));
        assert!(one.allows("::ffff:127.0.0.2".parse().unwrap()));
        assert!(!one.allows("127.0.0.3".parse().unwrap()));
        assert!(permit("0.0.0.0/0").allows("127.0.0.1".parse().unwrap()));
        assert!(permit("fd00::/8").allows("fd00::7".parse().unwrap()));
        for text in ["", "10.0.0.0/33", "host", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    /// A server on a local address, and its request count.
    async fn server(ip: &str, app: Router<Arc<AtomicUsize>>) -> (u16, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = app.with_state(Arc::clone(&asked));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (port, asked)
    }

    async fn counted(State(asked): State<Arc<AtomicUsize>>) -> Vec<u8> {
        asked.fetch_add(1, Ordering::SeqCst);
        vec![7; 100]
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_private_server_is_not_even_asked_by_address_name_or_redirect() {
        let (port, asked) = server("127.0.0.1", Router::new().route("/x", get(counted))).await;
        let to = format!("http://127.0.0.1:{port}/x");
        let by_name = format!("http://localhost:{port}/x");
        let elsewhere = |to: String| {
            let app =
                Router::new().route("/go", get(move || async move { Redirect::temporary(&to) }));
            server("127.0.0.2", app)
        };
        let (first, _) = elsewhere(to.clone()).await;
        let (second, _) = elsewhere(by_name.clone()).await;
        let permitted = Reach::Public(vec!["127.0.0.2".parse().unwrap()]);
        let guard = Guard::new(permitted).unwrap();
        for from in [
            to.clone(),
            by_name,
            format!("http://0x7f.1:{port}/x"),
            format!("http://[::ffff:127.0.0.1]:{port}/x"),
            format!("http://127.0.0.2:{first}/go"),
            format!("http://127.0.0.2:{second}/go"),
        ] {
            let refused = guard.get(&url(&from), 1000, LIMIT).await.unwrap_err();
            let RpcError::Refused(why) = &refused else {
                panic!("{from}: {refused:?}");
            };
            assert!(why.contains("--allow-address"), "{from}: {why}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        let open = Guard::new(Reach::Everywhere).unwrap();
        let through = format!("http://127.0.0.2:{first}/go");
        let fetched = open.get(&url(&through), 1000, LIMIT).await.unwrap();
        assert_eq!((fetched.status.as_u16(), fetched.body.len()), (200, 100));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_is_too_long_too_late_or_goes_in_circles_ends() {
        let app = Router::new()
            .route("/x", get(counted))
            .route("/round", get(|| async { Redirect::temporary("/round") }))
            .route(
                "/file",
                get(|| async { Redirect::temporary("file:///etc/passwd") }),
            )
            .route(
                "/never",
                get(|| async { std::future::pending::<String>().await }),
            );
        let (port, _) = server("127.0.0.1", app).await;
        let guard = Guard::new(Reach::Everywhere).unwrap();
        let at = |path: &str| url(&format!("http://127.0.0.1:{port}/{path}"));
        let fault = guard.get(&at("x"), 99, LIMIT).await.unwrap_err();
        assert!(fault.to_string().contains("longer than 99"), "{fault}");
        let fault = guard.get(&at("round"), 99, LIMIT).await.unwrap_err();
        assert!(fault.to_string().contains("redirects more than"), "{fault}");
        let fault = guard.get(&at("file"), 99, LIMIT).await.unwrap_err();
        assert!(fault.to_string().contains("not http"), "{fault}");
        let short = Duration::from_millis(50);
        let fault = guard.get(&at("never"), 99, short).await.unwrap_err();
        assert_eq!(fault, RpcError::TimedOut(short));
    }
}
