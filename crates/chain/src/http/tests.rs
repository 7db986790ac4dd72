//! A misbehaving chain: what is reported, what goes on, and that everything ends.

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;

use super::proxy::{Mode, Proxy};
use super::*;
use crate::deploy::deploy;
use crate::endpoint::{Endpoint, LogsFault};
use crate::ledger::{ContractLedger, Reading};
use crate::tests::anvil::Anvil;
use crate::tests::anvil::keeper::Kept;
use crate::tests::rich;
use crate::transact::Transactor;

/// Rests that a test can wait for, and bounds that no answer reaches.
fn limits() -> Limits {
    Limits {
        total: Duration::from_secs(60),
        attempt: Duration::from_secs(20),
        connect: Duration::from_secs(20),
        rest_min: Duration::from_millis(100),
        rest_max: Duration::from_millis(400),
        probe: Duration::from_millis(200),
        // Tests move these chains' time.
        ahead_s: 1_000_000,
        ..Limits::default()
    }
}

/// Bounds that a test can wait for.
fn short() -> Limits {
    Limits {
        total: Duration::from_secs(4),
        ..limits()
    }
}

fn servers(urls: &[&str], wanted: Option<u64>) -> (Servers, Endpoint) {
    within(limits(), urls, wanted)
}

fn within(limits: Limits, urls: &[&str], wanted: Option<u64>) -> (Servers, Endpoint) {
    let servers = Servers::new(urls, wanted, limits).unwrap();
    let endpoint = Endpoint::over(servers.clone());
    (servers, endpoint)
}

/// An anvil and a proxy before it.
async fn site() -> (Anvil, Proxy) {
    let anvil = Anvil::start(&[]);
    let proxy = Proxy::before(anvil.url()).await;
    (anvil, proxy)
}

/// Waits for a condition; the test runner bounds it.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that one server can do wrong.
fn faults() -> Vec<Mode> {
    vec![
        Mode::Status(500, None),
        Mode::Status(502, None),
        Mode::Status(401, None),
        Mode::Status(429, None),
        Mode::Status(429, Some(9)),
        Mode::Status(503, Some(9)),
        Mode::Refuse(-32005, "limit exceeded"),
        Mode::Refuse(-32016, "daily request count exceeded, request rate limited"),
        Mode::Hang,
        Mode::Close,
        Mode::Say(""),
        Mode::Say("<html>Welcome to nginx!</html>"),
        Mode::Say("[]"),
        Mode::Say("{\"jsonrpc\":\"2.0\",\"id\":12345,\"result\":\"0x1\"}"),
        Mode::Say("\u{0}\u{1}\u{2}"),
        Mode::Flood,
        Mode::ChainId(1),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn any_fault_of_the_first_endpoint_fails_over_and_back() {
    let anvil = Anvil::start(&[]);
    let all = faults().into_iter().map(|fault| fails_over(&anvil, fault));
    futures::future::join_all(all).await;
}

async fn fails_over(anvil: &Anvil, fault: Mode) {
    let (first, second) = (
        Proxy::before(anvil.url()).await,
        Proxy::before(anvil.url()).await,
    );
    let limits = Limits {
        attempt: Duration::from_secs(3),
        ..limits()
    };
    let (servers, endpoint) = within(limits, &[&first.url, &second.url], Some(31337));
    let answered_by = async |url: &str| {
        let height = endpoint.height().await;
        assert!(height.is_ok(), "{fault:?}: {height:?}");
        *servers.current() == *url
    };
    until(async || answered_by(&first.url).await).await;
    // It fails in use; that it serves another chain is noticed after a failure.
    first.set(fault.clone());
    if matches!(fault, Mode::ChainId(_)) {
        let first = &servers.inner.servers[0];
        first.rest(&first.fault(Kind::Broken));
    }
    until(async || answered_by(&second.url).await).await;
    first.set(Mode::Well);
    until(async || answered_by(&first.url).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_only_server_does_the_call_ends_with_one_line() {
    let anvil = Anvil::start(&[]);
    let all = faults().into_iter().map(|fault| ends(&anvil, fault));
    futures::future::join_all(all).await;
}

async fn ends(anvil: &Anvil, fault: Mode) {
    let proxy = Proxy::before(anvil.url()).await;
    let permanent = matches!(fault, Mode::ChainId(_) | Mode::Status(401, _));
    let limits = if permanent { limits() } else { short() };
    let (_, endpoint) = within(limits, &[&proxy.url], Some(31337));
    proxy.set(fault.clone());
    // Far above its limit, far below for ever.
    let told = tokio::time::timeout(limits.total * 10, endpoint.height()).await;
    let told = told.expect("it ends").unwrap_err();
    let line = told.to_string();
    assert!(line.contains(&proxy.url), "{fault:?}: {line}");
    assert!(line.lines().count() == 1 && line.len() < 200, "{line}");
    let is_as_told = match fault {
        Mode::ChainId(_) => matches!(told, ChainError::Permanent(_)),
        Mode::Status(401, _) => matches!(told, ChainError::Unserved(_)),
        _ => matches!(told, ChainError::Transient(_)),
    };
    assert!(is_as_told, "{fault:?}: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_chain_is_asked_for_nothing_else() {
    let (anvil, proxy) = site().await;
    proxy.set(Mode::ChainId(100));
    let (_, alone) = servers(&[&proxy.url], Some(31337));
    let told = alone.height().await.unwrap_err().to_string();
    assert!(told.contains("is of chain 100, not of 31337"), "{told}");
    let (_, endpoint) = servers(&[&proxy.url, anvil.url()], Some(31337));
    for _ in 0..3 {
        endpoint.height().await.unwrap();
        tokio::time::sleep(limits().probe).await;
    }
    let asked = proxy.asked();
    assert!(
        asked.len() >= 2 && asked.iter().all(|method| method == "eth_chainId"),
        "{asked:?}"
    );
    // Without a configured id the first choice's counts, not the fastest's.
    for _ in 0..20 {
        let (_, endpoint) = servers(&[anvil.url(), &proxy.url], None);
        assert_eq!(endpoint.chain_id().await.unwrap(), 31337);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_switches_to_another_chain_is_noticed() {
    let (_anvil, proxy) = site().await;
    let (_, endpoint) = servers(&[&proxy.url], None);
    endpoint.height().await.unwrap();
    proxy.set(Mode::ChainId(100));
    until(async || {
        let told = endpoint.height().await;
        told.is_err_and(|fault| fault.to_string().contains("is of chain 100, not of 31337"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rechecking_the_chain_id_adds_no_request_to_a_check() {
    let (anvil, proxy) = site().await;
    let (_, endpoint) = servers(&[&proxy.url], None);
    let payer = Transactor::new(Endpoint::http(anvil.url()).unwrap(), &rich());
    let suite = deploy(&payer, &[payer.address()], 1).await.unwrap();
    let ledger = ContractLedger::new(endpoint, suite.contract, payer.address());
    for _ in 0..2 {
        ledger.look(Reading::Changed).await.unwrap();
    }
    tokio::time::sleep(limits().probe).await;
    drop((proxy.asked(), proxy.posts()));
    ledger.look(Reading::Changed).await.unwrap();
    let asked = proxy.asked();
    assert_eq!(proxy.posts(), 1, "{asked:?}");
    assert!(asked.iter().any(|method| method == "eth_chainId"));
    // What another chain then answers does not count.
    proxy.set(Mode::ChainId(100));
    tokio::time::sleep(limits().probe).await;
    let told = ledger.look(Reading::Changed).await.unwrap_err().to_string();
    assert!(told.contains("is of chain 100, not of 31337"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_waited_for_and_not_hammered() {
    let (_anvil, proxy) = site().await;
    // Every request counts: no chain check in between.
    let limits = Limits {
        probe: Duration::from_secs(600),
        ..limits()
    };
    let (_, endpoint) = within(limits, &[&proxy.url], None);
    endpoint.height().await.unwrap();
    for busy in [
        Mode::Status(429, Some(1)),
        Mode::Refuse(-32005, "limit exceeded"),
        Mode::Refuse(
            429,
            "Your app has exceeded its compute units per second capacity",
        ),
    ] {
        proxy.asked();
        proxy.set(Mode::Times(2, Box::new(busy.clone())));
        let height = endpoint.height().await;
        assert!(height.is_ok(), "{busy:?}: {height:?}");
        assert_eq!(proxy.asked().len(), 3, "{busy:?}");
    }
    // Nobody asks it while it rests.
    let (_, endpoint) = within(short(), &[&proxy.url], None);
    until(async || endpoint.height().await.is_ok()).await;
    proxy.set(Mode::Status(429, Some(3600)));
    proxy.asked();
    let wants = (0..20).map(|_| endpoint.height());
    let all = futures::future::join_all(wants).await;
    assert!(all.iter().all(Result::is_err));
    let asked = proxy.asked().len();
    assert!(asked < 20 * 12, "{asked} questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut() {
    let (_anvil, proxy) = site().await;
    let (_, endpoint) = servers(&[&proxy.url], None);
    endpoint.height().await.unwrap();
    proxy.set(Mode::Flood);
    let told = endpoint.height().await.unwrap_err().to_string();
    assert!(told.contains("more than 16 MiB"), "{told}");
    assert!(proxy.sent_bytes() < 40 << 20, "{}", proxy.sent_bytes());
    // Fewer logs may be requested.
    let logs = endpoint.logs(&Filter::new()).await;
    assert!(matches!(logs, Err(LogsFault::TooMuch(_))), "{logs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_endpoint_is_not_used_until_it_catches_up() {
    let (old, new) = (Anvil::start(&[]), Anvil::start(&[]));
    let advance = async |anvil: &Anvil| {
        let endpoint = Endpoint::http(anvil.url()).unwrap();
        endpoint.advance(Duration::from_secs(1_000)).await.unwrap();
    };
    advance(&new).await;
    let (servers, endpoint) = servers(&[old.url(), new.url()], None);
    assert_eq!(endpoint.height().await.unwrap(), 1, "the newer one's");
    assert_eq!(*servers.current(), *new.url());
    let told = servers.inner.servers[0].resting().to_string();
    assert!(
        told.contains("is behind") && told.contains(" s old"),
        "{told}"
    );
    advance(&old).await;
    until(async || {
        endpoint.height().await.unwrap();
        *servers.current() == *old.url()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_future_timestamps_makes_no_honest_one_look_stale() {
    let week = Duration::from_secs(7 * 86_400);
    let (honest, liar) = (Anvil::start(&[]), Anvil::start(&[]));
    let lies = Endpoint::http(liar.url()).unwrap();
    lies.advance(week).await.unwrap();
    let strict = Limits {
        ahead_s: 900,
        ..limits()
    };
    for urls in [[honest.url(), liar.url()], [liar.url(), honest.url()]] {
        let servers = Servers::new(&urls, None, strict).unwrap();
        let endpoint = Endpoint::over(servers.clone());
        // The liar's chain is one block longer.
        for _ in 0..3 {
            assert_eq!(endpoint.height().await, Ok(0), "{urls:?}");
            tokio::time::sleep(limits().probe).await;
        }
        assert_eq!(*servers.current(), *honest.url());
    }
    // It is not believed even as the last one left.
    let soon = Limits {
        total: short().total,
        ..strict
    };
    let (_, endpoint) = within(soon, &[honest.url(), liar.url()], None);
    until(async || endpoint.height().await == Ok(0)).await;
    drop(honest);
    for _ in 0..3 {
        let told = endpoint.height().await;
        assert!(matches!(told, Err(ChainError::Transient(_))), "{told:?}");
        tokio::time::sleep(limits().probe).await;
    }
    // A development chain's time moves for all its servers.
    let servers = Servers::new(&[liar.url(), liar.url()], None, strict).unwrap();
    assert_eq!(Endpoint::over(servers).height().await, Ok(1));
}

#[test]
fn what_a_server_is_depends_on_the_newest_time_that_can_be() {
    use Verdict::{Ahead, AllAhead, Behind, Level};
    let limits = Limits::default();
    let now_s = 1_000_000;
    let of = |heads: &[u64]| {
        let heads: Vec<Option<u64>> = heads.iter().copied().map(Some).collect();
        let verdicts = judge(&heads, now_s, &limits);
        verdicts.into_iter().flatten().collect::<Vec<_>>()
    };
    assert_eq!(of(&[now_s, now_s - 60]), [Level, Level]);
    assert_eq!(of(&[now_s, now_s - 61]), [Level, Behind(61)]);
    assert_eq!(of(&[now_s, now_s + 901]), [Level, Ahead(901)]);
    assert_eq!(
        of(&[now_s - 61, now_s + 901, now_s]),
        [Behind(61), Ahead(901), Level]
    );
    // A slow clock here.
    assert_eq!(of(&[now_s + 900, now_s + 840]), [Level, Level]);
    assert_eq!(
        of(&[now_s + 5_000, now_s + 4_000]),
        [AllAhead(5_000), Behind(1_000)]
    );
    assert_eq!(judge(&[None], now_s, &limits), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_behind_is_better_than_none() {
    let (old, new) = (Anvil::start(&[]), Anvil::start(&[]));
    let newest = Endpoint::http(new.url()).unwrap();
    newest.advance(Duration::from_secs(1_000)).await.unwrap();
    let (_, endpoint) = servers(&[old.url(), new.url()], None);
    assert_eq!(endpoint.height().await.unwrap(), 1);
    drop(new);
    assert_eq!(endpoint.height().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_too_large_are_sent_in_parts() {
    let (anvil, proxy) = site().await;
    let (_, endpoint) = servers(&[&proxy.url], None);
    let payer = Transactor::new(Endpoint::http(anvil.url()).unwrap(), &rich());
    let suite = deploy(&payer, &[payer.address()], 1).await.unwrap();
    payer.mint_bare(suite.contract, 0).await.unwrap();
    let ledger = ContractLedger::new(endpoint.clone(), suite.contract, payer.address());
    let calls: Vec<Bytes> = (0..7)
        .map(|_| Bytes::from(vec![0x18, 0x16, 0x0d, 0xdd]))
        .collect();
    for (most, in_batch) in [(5, true), (2, false), (1, true), (0, false)] {
        proxy.set(Mode::Batches(most, in_batch));
        let answers = endpoint
            .call_many(suite.contract, &calls, BlockId::latest())
            .await;
        let answers: Result<Vec<_>, _> = answers.unwrap().into_iter().collect();
        let one = U256::ONE.to_be_bytes::<32>();
        assert!(
            answers.unwrap().iter().all(|answer| answer[..] == one),
            "{most}"
        );
        assert_eq!(ledger.snapshot().await.unwrap().tokens.len(), 1);
        // The accepted size is remembered: no refusal again.
        proxy.asked();
        let answers = endpoint.call_many(suite.contract, &calls, BlockId::latest());
        assert_eq!(answers.await.unwrap().len(), 7);
        assert_eq!(proxy.asked().len(), 7, "at most {most}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_reaches_two_servers_is_one() {
    let (anvil, first) = site().await;
    let (_, endpoint) = servers(&[&first.url, anvil.url()], None);
    let payer = Transactor::new(endpoint.clone(), &rich());
    let to = Address::repeat_byte(5);
    for _ in 0..3 {
        // The first server forwards each request, and its answer is lost.
        let sent = payer.send(Some(to), Bytes::new(), U256::ONE, None);
        let breaking = async {
            for _ in 0..20 {
                first.set(Mode::Times(1, Box::new(Mode::Close)));
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        };
        let (sent, ()) = tokio::join!(sent, breaking);
        sent.unwrap();
    }
    let got = endpoint.provider().get_balance(to).await.unwrap();
    assert_eq!(got, U256::from(3));
}

/// A server without TLS: it answers in the clear, or ends the handshake.
async fn without_tls(answer: &'static [u8]) -> (String, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut hello = [0; 1024];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(answer).await;
        }
    });
    (url, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_tls_is_named_and_the_next_endpoint_answers() {
    let anvil = Anvil::start(&[]);
    // A fatal alert, `handshake_failure`.
    let alert: &[u8] = &[0x15, 3, 3, 0, 2, 2, 40];
    for answer in [b"HTTP/1.1 400 Bad Request\r\n\r\n", alert] {
        let (url, task) = without_tls(answer).await;
        let (_, alone) = within(short(), &[&url], None);
        let told = alone.height().await.unwrap_err();
        assert!(matches!(told, ChainError::Transient(_)), "{told:?}");
        let line = told.to_string();
        assert!(line.contains(&url) && line.contains("TLS"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        let (servers, endpoint) = servers(&[&url, anvil.url()], Some(31337));
        assert_eq!(endpoint.height().await.unwrap(), 0);
        assert_eq!(*servers.current(), *anvil.url());
        task.abort();
    }
}

fn untrusted() -> (String, Kept) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (key, certificate) = (path("key"), path("certificate"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let serve = ["s_server", "-www", "-accept", "127.0.0.1:0"];
    let with = ["-cert", &certificate, "-key", &key];
    let (kept, mut lines) = Kept::start("openssl", &[&serve[..], &with].concat(), &[]);
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned));
    std::thread::spawn(move || lines.for_each(drop));
    (format!("https://{}", address.unwrap()), kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_is_sent_nothing_and_the_next_endpoint_answers() {
    let anvil = Anvil::start(&[]);
    let (url, _kept) = untrusted();
    let (_, alone) = within(short(), &[&url], None);
    let told = alone.height().await.unwrap_err();
    assert!(matches!(told, ChainError::Transient(_)), "{told:?}");
    let line = told.to_string();
    assert!(
        line.contains(&url) && line.contains("certificate"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
    let (servers, endpoint) = servers(&[&url, anvil.url()], Some(31337));
    assert_eq!(endpoint.height().await.unwrap(), 0);
    assert_eq!(*servers.current(), *anvil.url());
}
