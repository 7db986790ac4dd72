//! A chain that announces changes through an unreliable connection.

use alloy::primitives::{Address, U256, address, b256};
use alloy::sol;
use alloy::sol_types::SolCall;
use pxfs_base::types::TokenId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::contract::token_code;
use crate::endpoint::Endpoint;
use crate::http::proxy::Proxy;
use crate::ledger::Reading;
use crate::tests::anvil::Anvil;
use crate::tests::rich;
use crate::transact::Transactor;
use crate::wallet::Wallet;

sol! {
    function transferFrom(address from, address to, uint256 tokenId) external;
}

const STRANGER: Address = address!("0x0707070707070707070707070707070707070707");

/// The second account that anvil funds.
fn second() -> Wallet {
    let secret = b256!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d");
    Wallet::from_secret(zeroize::Zeroizing::new(secret.0)).unwrap()
}

/// Pauses that a test can wait for.
fn pace() -> Pace {
    Pace {
        retry_min: Duration::from_millis(50),
        retry_max: Duration::from_millis(200),
        head_min: Duration::from_millis(100),
        head_max: Duration::from_millis(200),
    }
}

/// How the connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Open,
    /// Swallows everything.
    Mute,
    /// Broken, also for new connections.
    Cut,
}

/// Stands between a drive and its chain.
struct Line {
    url: String,
    wire: watch::Sender<Wire>,
    task: JoinHandle<()>,
}

impl Line {
    async fn to(target: &str) -> Self {
        let target = target.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let wire = watch::Sender::new(Wire::Open);
        let seen = wire.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&target).await.unwrap();
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(pass(near_in, far_out, seen.clone()));
                tokio::spawn(pass(far_in, near_out, seen.clone()));
            }
        });
        Self { url, wire, task }
    }

    fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut wire: watch::Receiver<Wire>,
) {
    let mut bytes = vec![0; 4096];
    loop {
        let now = *wire.borrow_and_update();
        if now == Wire::Cut {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut bytes) => read.unwrap_or(0),
            _ = wire.changed() => continue,
        };
        // Data read during a change follows the new state.
        let is_open = *wire.borrow() == Wire::Open;
        if read == 0 || is_open && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// A contract on anvil with a watching wallet: over HTTP through a counting proxy, and over an
/// unreliable socket.
struct World {
    payer: Transactor,
    contract: Address,
    proxy: Proxy,
    line: Line,
    ledger: ContractLedger,
    subscription: Subscription,
    anvil: Anvil,
}

impl World {
    async fn new() -> Self {
        Self::at_pace(pace()).await
    }

    /// Where the socket stays open however slow the machine is: what is announced while it is opened anew is not.
    async fn calm() -> Self {
        let head = Duration::from_secs(600);
        Self::at_pace(Pace {
            head_min: head,
            head_max: head,
            ..pace()
        })
        .await
    }

    async fn at_pace(pace: Pace) -> Self {
        let anvil = Anvil::start(&[]);
        let payer = Transactor::new(Endpoint::http(anvil.url()).unwrap(), &rich());
        let me = payer.address();
        let code = token_code(me, me).unwrap();
        let made = payer.send(None, code, U256::ZERO, None).await.unwrap();
        let contract = made.contract_address.unwrap();
        let proxy = Proxy::before(anvil.url()).await;
        let line = Line::to(anvil.url()).await;
        let endpoint = Endpoint::over_http(&[&line.url, &proxy.url], None).unwrap();
        let ledger = ContractLedger::new(endpoint, contract, me);
        let subscription = Subscription::at_pace(&ledger, pace).unwrap();
        let mut world = Self {
            payer,
            contract,
            proxy,
            line,
            ledger,
            subscription,
            anvil,
        };
        world.until(|announced| announced.is_live).await;
        world.look().await;
        world
    }

    /// Waits for an announcement; the test runner bounds it.
    async fn until(&mut self, holds: impl Fn(Announced) -> bool) -> Announced {
        let mut announced = self.subscription.announced();
        while !holds(announced) {
            announced = self.subscription.changed().await;
        }
        announced
    }

    async fn mint(&self) -> TokenId {
        let minted = self.payer.mint_bare(self.contract, 1).await;
        minted.unwrap().token
    }

    /// Sells `token` to a stranger; returns the block.
    async fn sell(&self, token: TokenId) -> u64 {
        let call = transferFromCall {
            from: self.payer.address(),
            to: STRANGER,
            tokenId: token.0,
        };
        let data = call.abi_encode().into();
        let sent = self.payer.send(Some(self.contract), data, U256::ZERO, None);
        sent.await.unwrap().block_number.unwrap()
    }

    /// The tokens that a check finds.
    async fn look(&self) -> Vec<TokenId> {
        let seen = self.ledger.look(Reading::Changed).await.unwrap();
        seen.tokens.iter().map(|token| token.id).collect()
    }

    /// HTTP requests since the last call, except for the height, which detects a silent socket.
    fn polls(&self) -> Vec<String> {
        let mut asked = self.proxy.asked();
        asked.retain(|method| !matches!(&**method, "eth_blockNumber" | "eth_chainId"));
        asked
    }
}

#[tokio::test]
async fn a_new_token_and_a_sold_one_are_announced_without_a_poll() {
    let mut world = World::calm().await;
    world.look().await;
    let before = world.subscription.announced();
    world.polls();
    let token = world.mint().await;
    let minted = world.until(|now| now.changes > before.changes).await;
    assert!(world.polls().is_empty(), "nobody has asked");
    assert!(world.look().await.contains(&token));
    let head = "eth_getBlockByNumber";
    assert_eq!(world.polls(), [head, head, "eth_getLogs", "eth_call"]);

    let block = world.sell(token).await;
    world.until(|now| now.block == block).await;
    assert!(world.polls().is_empty(), "nobody has asked");
    assert!(!world.look().await.contains(&token));
    assert!(world.subscription.announced().changes > minted.changes);
}

#[tokio::test]
async fn what_happens_to_tokens_of_others_makes_nobody_ask() {
    let mut world = World::calm().await;
    let (first, last) = (world.mint().await, world.mint().await);
    world.look().await;
    // A sale has one log, and a server announces logs in chain order.
    let sold = world.sell(first).await;
    let before = world.until(|now| now.block == sold).await;
    let to = Transactor::new(Endpoint::http(world.anvil.url()).unwrap(), &second());
    to.mint_bare(world.contract, 1).await.unwrap();
    let sold = world.sell(last).await;
    let now = world.until(|now| now.block == sold).await;
    assert_eq!(now.changes, before.changes + 1, "one is of the other's");
    assert!(world.look().await.is_empty());
}

#[tokio::test]
async fn a_socket_that_breaks_is_opened_anew_and_counts_as_a_change() {
    let mut world = World::new().await;
    world.line.set(Wire::Cut);
    let lost = world.until(|now| !now.is_live).await;
    let token = world.mint().await;
    world.line.set(Wire::Open);
    let healed = world.until(|now| now.is_live).await;
    assert!(healed.changes > lost.changes, "the gap is to be checked");
    assert!(world.look().await.contains(&token));
    let token = world.mint().await;
    world.until(|now| now.changes > healed.changes).await;
    assert!(world.look().await.contains(&token));
}

#[tokio::test]
async fn a_socket_that_says_nothing_while_the_chain_grows_is_dropped() {
    let mut world = World::new().await;
    world.line.set(Wire::Mute);
    world.mint().await;
    let lost = world.until(|now| !now.is_live).await;
    world.line.set(Wire::Open);
    let healed = world.until(|now| now.is_live).await;
    assert!(healed.changes > lost.changes, "the gap is to be checked");
}

#[tokio::test]
async fn a_socket_stays_while_its_chain_stands_still() {
    let mut world = World::new().await;
    let before = world.subscription.announced();
    world.proxy.asked();
    // Two timeouts have passed.
    let mut asked = 0;
    while asked < 2 {
        tokio::task::yield_now().await;
        let heights = world.proxy.asked();
        asked += heights
            .iter()
            .filter(|one| *one == "eth_blockNumber")
            .count();
    }
    world.mint().await;
    let after = world.until(|now| now.changes > before.changes).await;
    assert!(after.is_live);
}

#[tokio::test]
async fn a_socket_alone_has_its_requests_served_over_http() {
    let anvil = Anvil::start(&[]);
    let url = anvil.url().replacen("http", "ws", 1);
    let endpoint = Endpoint::over_http(&[&url], None).unwrap();
    assert_eq!(endpoint.chain_id().await.unwrap(), 31337);
    assert_eq!(&*endpoint.current(), anvil.url());
    let http_alone = Endpoint::http(anvil.url()).unwrap();
    let ledger = ContractLedger::new(http_alone, Address::ZERO, Address::ZERO);
    assert!(Subscription::open(&ledger).is_none());
    for bad in ["ws://", "wss:/x", "wsx://host"] {
        assert!(Endpoint::over_http(&[bad], None).is_err(), "{bad}");
    }
}
