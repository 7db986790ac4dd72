//! Charges and syncs through everything a network does, counted on chain.
//!
//! Each run is a wallet's life on an anvil that mines on demand. The sender is killed at any call
//! or write, and restarted from what was stored. Calls are dropped before or after execution,
//! doubled, delayed, reordered, or answered with an earlier answer. Blocks are replaced
//! (`anvil_reorg`, snapshot and revert), pending transactions are lost, fees rise, and another
//! program sends from the same account at our nonces.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use alloy::network::TransactionBuilder;
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{RequestPacket, ResponsePacket, SerializedRequest};
use alloy::rpc::types::{Filter, TransactionRequest};
use alloy::sol_types::SolEvent;
use alloy::transports::{BoxTransport, TransportError, TransportErrorKind, TransportFut};
use async_trait::async_trait;
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tower::Service;

use super::*;
use crate::charges::Charger;
use crate::contract::{PxSync, PxV2};
use crate::dialect::Dialect;
use crate::http::{Limits, Servers};
use crate::ledger::tests::{add_package, older};
use crate::meddle::Meddler;
use crate::outbox::Signed;
use crate::tests::anvil::Anvil;
use crate::tests::rich;
use pxfs_base::types::TokenId;

/// Blocks on top that make a block final: two epochs of anvil's two slots.
const FINAL: u64 = 4;
/// When a changed fee takes effect (`SyncSettings.sol`).
const SETTING_DELAY_S: u64 = 7 * 86_400;
/// The default number of runs (`PXFS_OUTBOX_RUNS`).
const RUNS: u64 = 12;
/// The most events in a run before the network is calm.
const WILD: u32 = 40;
const MOST: u32 = 600;
const NAME: &str = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r";

/// Reproducible pseudo-random numbers.
struct Dice(Mutex<u64>);

impl Dice {
    fn new(seed: u64) -> Arc<Self> {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Arc::new(Self(Mutex::new(seed)))
    }

    fn roll(&self, sides: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % sides
    }

    fn one_in(&self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// Kills the sender and spoils its calls, until calm.
struct Evil {
    dice: Arc<Dice>,
    calm: AtomicBool,
    killed: Notify,
    deaths: Mutex<u64>,
    /// Requests in flight, and how many were overtaken.
    late: Mutex<Vec<RequestPacket>>,
    reordered: Mutex<u64>,
}

impl Evil {
    fn strikes(&self, sides: u64) -> bool {
        !self.calm.load(Ordering::Relaxed) && self.dice.one_in(sides)
    }

    /// A request that arrives now, in any order; in the end all do.
    fn arrival(&self) -> Option<RequestPacket> {
        let mut late = self.late.lock().unwrap();
        let is_calm = self.calm.load(Ordering::Relaxed);
        if late.is_empty() || !is_calm && !self.dice.one_in(6) {
            return None;
        }
        *self.reordered.lock().unwrap() += 1;
        let place = self.dice.roll(late.len() as u64);
        Some(late.swap_remove(usize::try_from(place).unwrap()))
    }

    /// Sometimes kills the sender: the caller never continues.
    async fn may_kill(&self, sides: u64) {
        if self.strikes(sides) {
            *self.deaths.lock().unwrap() += 1;
            self.killed.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// Storage whose writer dies before or after a write.
struct MortalShelf {
    below: Arc<MemoryShelf>,
    evil: Arc<Evil>,
}

#[async_trait]
impl Shelf for MortalShelf {
    async fn load(&self) -> Result<BTreeMap<u64, Vec<u8>>, ChainError> {
        self.below.load().await
    }

    async fn put(&self, serial: u64, bytes: Vec<u8>) -> Result<(), ChainError> {
        self.evil.may_kill(8).await;
        self.below.put(serial, bytes).await?;
        self.evil.may_kill(8).await;
        Ok(())
    }

    async fn remove(&self, serial: u64) -> Result<(), ChainError> {
        self.evil.may_kill(8).await;
        self.below.remove(serial).await?;
        self.evil.may_kill(8).await;
        Ok(())
    }
}

#[derive(Clone)]
struct EvilTransport {
    below: BoxTransport,
    evil: Arc<Evil>,
    /// Recent answers about the newest block: a server lags, or an answer is late.
    answers: Arc<Mutex<BTreeMap<String, Vec<ResponsePacket>>>>,
}

impl EvilTransport {
    async fn ask(mut self, packet: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let evil = Arc::clone(&self.evil);
        let lost = || TransportErrorKind::custom_str("the line broke");
        evil.may_kill(60).await;
        if evil.strikes(15) {
            return Err(lost());
        }
        if evil.strikes(10) {
            sleep(Duration::from_millis(evil.dice.roll(4))).await;
        }
        let method = match &packet {
            RequestPacket::Single(one) => one.method().to_owned(),
            RequestPacket::Batch(_) => String::new(),
        };
        if method == "eth_sendRawTransaction" && evil.strikes(4) {
            let _ = self.below.call(packet.clone()).await;
        }
        while let Some(late) = evil.arrival() {
            let _ = self.below.call(late).await;
        }
        if method == "eth_sendRawTransaction" && evil.strikes(5) {
            evil.late.lock().unwrap().push(packet);
            return Err(lost());
        }
        let newest = packet.as_single().and_then(of_newest);
        let id = packet.as_single().map(|one| one.id().clone());
        let answer = self.below.call(packet).await?;
        if let Some(question) = newest {
            let mut answers = self.answers.lock().unwrap();
            let answers = answers.entry(question).or_default();
            if evil.strikes(6)
                && let Some(ResponsePacket::Single(old)) = answers.first().cloned()
                && let Some(id) = id
            {
                let old = alloy::rpc::json_rpc::Response { id, ..old };
                return Ok(ResponsePacket::Single(old));
            }
            answers.push(answer.clone());
            if answers.len() > 6 {
                answers.remove(0);
            }
        }
        evil.may_kill(60).await;
        if evil.strikes(15) {
            return Err(lost());
        }
        Ok(answer)
    }
}

/// The question, if its answer depends on the newest block: by number, all servers agree or lack
/// it.
fn of_newest(one: &SerializedRequest) -> Option<String> {
    let params = one.params().map_or("", |params| params.get());
    let changes = match one.method() {
        "eth_blockNumber" | "eth_getTransactionReceipt" => true,
        "eth_getTransactionCount" => params.contains("latest"),
        "eth_getBlockByNumber" => params.contains("finalized"),
        _ => false,
    };
    changes.then(|| format!("{} {params}", one.method()))
}

impl Service<RequestPacket> for EvilTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), TransportError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, packet: RequestPacket) -> Self::Future {
        Box::pin(self.clone().ask(packet))
    }
}

struct Site {
    _anvil: Anvil,
    endpoint: Endpoint,
    additive: Address,
    syncing: Address,
}

impl Site {
    async fn new() -> Self {
        let anvil = Anvil::start(&["--slots-in-an-epoch", "2"]);
        let endpoint = Endpoint::http(anvil.url()).unwrap();
        let payer = Transactor::new(endpoint.clone(), &rich());
        let additive = older(&payer, Dialect::PxV2).await;
        add_package(&payer, additive, Dialect::PxV2).await;
        let operators = [payer.address()];
        let suite = crate::deploy::deploy(&payer, &operators, 1).await;
        Self {
            _anvil: anvil,
            endpoint,
            additive,
            syncing: suite.unwrap().contract,
        }
    }

    async fn rpc(&self, method: &'static str, params: Value) -> Value {
        let client = self.endpoint.provider().client();
        client.request(method, params).await.unwrap()
    }

    async fn mine(&self) {
        self.rpc("evm_mine", json!([])).await;
    }
}

struct Life<'a> {
    site: &'a Site,
    dice: Arc<Dice>,
    evil: Arc<Evil>,
    wallet: Wallet,
    shelf: Arc<MemoryShelf>,
    token: TokenId,
    synced: TokenId,
    /// Commits not known to be charged: what a volume stores.
    commits: Vec<(u64, u64)>,
    /// Whether the sync is known to be done.
    sync_open: bool,
    /// A state to revert to, and its block.
    snapshot: Option<(Value, u64)>,
    /// The newest block that was ever final: it stays, whatever is replaced.
    settled: u64,
}

impl Life<'_> {
    fn transactor(&self) -> Transactor {
        let below = self.site.endpoint.provider().client().transport().clone();
        let transport = EvilTransport {
            below: BoxTransport::new(below),
            evil: Arc::clone(&self.evil),
            answers: Arc::default(),
        };
        let client = RpcClient::new(transport, true);
        let shelf = Arc::new(MortalShelf {
            below: Arc::clone(&self.shelf),
            evil: Arc::clone(&self.evil),
        });
        Transactor::new(Endpoint::new(client, "evil", false), &self.wallet)
            .with_shelf(shelf)
            .with_patience(Duration::from_millis(3))
    }

    fn sync_tag(&self) -> String {
        format!("sync {}", self.synced)
    }

    async fn pass(&mut self, sender: &Transactor) -> Result<bool, ChainError> {
        let charger = Charger::new(
            sender.clone(),
            self.site.additive,
            Dialect::PxV2,
            self.token,
        );
        let report = charger.report(&self.commits).await?;
        for (sequence, _) in report.done {
            self.commits.retain(|(known, _)| *known != sequence);
            self.evil.may_kill(8).await;
            charger.forget(sequence).await?;
        }
        if self.sync_open {
            let purpose = Purpose {
                to: Some(self.site.syncing),
                data: sync_calldata(self.synced),
                value: U256::ZERO,
                bound: false,
            };
            let posted = sender.post(&self.sync_tag(), purpose, None).await?;
            if let Some(over) = posted.over {
                assert_eq!(over, Outcome::Happened);
                self.sync_open = false;
                self.evil.may_kill(8).await;
                sender.forget(&self.sync_tag()).await?;
            }
        }
        let idle = sender.carry().await?;
        Ok(idle && self.commits.is_empty() && !self.sync_open)
    }

    /// Another program sends from the same account.
    async fn foreign(&self) {
        let provider = self.site.endpoint.provider();
        let next = provider.get_transaction_count(self.wallet.address()).await;
        let nonce = next.unwrap() + self.dice.roll(2);
        let price = 1_u128 << (31 + self.dice.roll(6));
        let request = TransactionRequest::default()
            .with_from(self.wallet.address())
            .with_to(Address::repeat_byte(9))
            .with_value(U256::from(1 + self.dice.roll(1000)))
            .with_nonce(nonce)
            .with_chain_id(31337)
            .with_gas_limit(21_000)
            .with_max_fee_per_gas(price)
            .with_max_priority_fee_per_gas(price / 2);
        let wallet = alloy::network::EthereumWallet::from(self.wallet.signer().clone());
        let signed = alloy::network::NetworkTransactionBuilder::build(request, &wallet).await;
        let raw = alloy::eips::eip2718::Encodable2718::encoded_2718(&signed.unwrap());
        // Perhaps too cheap to replace what waits there.
        let _ = provider.send_raw_transaction(&raw).await;
    }

    async fn happen(&mut self) {
        let site = self.site;
        let height = site.endpoint.height().await.unwrap();
        self.settled = self.settled.max(height.saturating_sub(FINAL));
        match self.dice.roll(12) {
            0 => {
                let depth = self.dice.roll(FINAL).min(height - self.settled);
                if depth > 0 {
                    site.rpc("anvil_reorg", json!([depth, []])).await;
                    self.snapshot = None;
                }
            }
            1 | 2 => self.foreign().await,
            3 => drop(site.rpc("anvil_dropAllTransactions", json!([])).await),
            4 => {
                let fee = format!("{:#x}", 1_u64 << (28 + self.dice.roll(4)));
                let params = json!([fee]);
                site.rpc("anvil_setNextBlockBaseFeePerGas", params).await;
            }
            5 => match self.snapshot.take() {
                None => {
                    let id = site.rpc("evm_snapshot", json!([])).await;
                    self.snapshot = Some((id, height));
                }
                Some((id, at)) => {
                    if at >= self.settled {
                        site.rpc("evm_revert", json!([id])).await;
                    }
                }
            },
            _ => site.mine().await,
        }
    }

    /// Runs until everything is done; returns how often it was killed, and how much was reordered.
    async fn live(&mut self) -> (u64, u64) {
        let mut sender = self.transactor();
        for turn in 0..MOST {
            if turn == WILD {
                self.evil.calm.store(true, Ordering::Relaxed);
            }
            match turn < WILD {
                true => self.happen().await,
                false => self.site.mine().await,
            }
            let evil = Arc::clone(&self.evil);
            let passed = {
                let sender = sender.clone();
                tokio::select! {
                    passed = self.pass(&sender) => Some(passed),
                    () = evil.killed.notified() => None,
                }
            };
            match passed {
                // Its memory is gone; its storage is not.
                None => sender = self.transactor(),
                Some(Ok(true)) if turn >= WILD => {
                    let evil = &self.evil;
                    let deaths = *evil.deaths.lock().unwrap();
                    return (deaths, *evil.reordered.lock().unwrap());
                }
                Some(_) => {}
            }
        }
        panic!("it never ends: {:?} {}", self.commits, self.sync_open);
    }
}

/// One life by this seed; its deaths and reordered requests.
async fn run(site: &Site, seed: u64) -> (u64, u64) {
    let dice = Dice::new(seed);
    let wallet = Wallet::random().unwrap();
    let funds = json!([wallet.address(), "0x56bc75e2d63100000"]);
    site.rpc("anvil_setBalance", funds).await;
    let payer = Transactor::new(site.endpoint.clone(), &wallet);
    let token = payer.mint_for(site.additive, 1, U256::ZERO).await.unwrap();
    let nonce = payer.next_nonce().await.unwrap();
    let synced = payer.mint(site.syncing, 0, NAME, nonce).await.unwrap();
    site.rpc("evm_setAutomine", json!([false])).await;
    for _ in 0..=FINAL {
        site.mine().await;
    }
    let commits: Vec<(u64, u64)> = (1..=1 + dice.roll(4))
        .map(|sequence| (sequence, 4096 * (1 + dice.roll(2))))
        .collect();
    let (count, bytes) = (
        commits.len() as u64,
        commits.iter().map(|(_, bytes)| bytes).sum::<u64>(),
    );
    let since = site.endpoint.height().await.unwrap();
    let mut life = Life {
        site,
        evil: Arc::new(Evil {
            dice: Arc::clone(&dice),
            calm: AtomicBool::new(false),
            killed: Notify::new(),
            deaths: Mutex::new(0),
            late: Mutex::default(),
            reordered: Mutex::default(),
        }),
        dice,
        wallet,
        shelf: Arc::default(),
        token: token.token,
        synced: synced.token,
        commits,
        sync_open: true,
        snapshot: None,
        settled: 0,
    };
    let lived = life.live().await;
    let call = PxV2::pxStorageCall {
        tokenId: token.token.0,
    };
    let latest = alloy::eips::BlockId::latest();
    let told = site.endpoint.call(site.additive, &call, latest).await;
    let told = told.unwrap();
    assert_eq!(told.usage, U256::from(bytes), "seed {seed}: bytes");
    assert_eq!(told.bandwidth, U256::from(50 - count), "seed {seed}: units");
    let asked = Filter::new()
        .address(site.syncing)
        .from_block(since)
        .event_signature(PxSync::SyncRequested::SIGNATURE_HASH)
        .topic1(B256::from(synced.token.0));
    let asked = site.endpoint.provider().get_logs(&asked).await.unwrap();
    assert_eq!(asked.len(), 1, "seed {seed}: syncs");
    site.rpc("anvil_dropAllTransactions", json!([])).await;
    site.rpc("evm_setAutomine", json!([true])).await;
    lived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_network_fault_charges_a_commit_twice_or_loses_a_sync() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let runs: u64 = number("PXFS_OUTBOX_RUNS").unwrap_or(RUNS);
    let first: u64 = number("PXFS_OUTBOX_SEED").unwrap_or(1);
    let site = Site::new().await;
    let (mut deaths, mut reordered) = (0, 0);
    for seed in first..first + runs {
        let (died, came_late) = run(&site, seed).await;
        (deaths, reordered) = (deaths + died, reordered + came_late);
    }
    println!(
        "{runs} runs, {deaths} times killed, {reordered} sent that came in another order: 0 double charges, 0 lost syncs"
    );
    // The runs are as hostile as intended.
    assert!(deaths >= runs, "{deaths} deaths in {runs} runs");
    assert!(reordered >= runs / 4, "{reordered} in {runs} runs");
}

/// Mines blocks until `task` ends; its result.
async fn while_mining<T>(task: tokio::task::JoinHandle<T>, mine: &impl AsyncFn()) -> T {
    while !task.is_finished() {
        mine().await;
        sleep(Duration::from_millis(20)).await;
    }
    task.await.unwrap()
}

#[tokio::test]
async fn an_interrupted_command_waits_for_its_transaction_instead_of_resending() {
    let anvil = Anvil::start(&["--no-mining"]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sender = || Transactor::new(endpoint.clone(), &rich()).kept_in(dir.path());
    let whom = Address::repeat_byte(7);
    let give = |sender: Transactor| async move {
        let sent = sender.send(Some(whom), Bytes::new(), U256::ONE, None);
        sent.await.map(|receipt| receipt.transaction_hash)
    };
    let hasty = sender().with_limit(Duration::from_millis(50));
    assert!(matches!(give(hasty).await, Err(ChainError::Transient(_))));
    let waiting = tokio::spawn(give(sender()));
    let client = endpoint.provider().client();
    let mine = async || {
        let _: Value = client.request("evm_mine", json!([])).await.unwrap();
    };
    let first = while_mining(waiting, &mine).await.unwrap();
    let given = async || endpoint.provider().get_balance(whom).await.unwrap();
    assert_eq!(given().await, U256::ONE, "once, by two commands");
    // A caller who knows that it was done, and asks again, means it.
    let waiting = tokio::spawn(give(sender()));
    assert_ne!(while_mining(waiting, &mine).await.unwrap(), first);
    assert_eq!(given().await, U256::from(2));
}

#[tokio::test]
async fn a_command_repeated_after_a_kill_reports_its_payment_without_repaying() {
    let anvil = Anvil::start(&["--no-mining", "--slots-in-an-epoch", "1"]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sender = || Transactor::new(endpoint.clone(), &rich()).kept_in(dir.path());
    let whom = Address::repeat_byte(7);
    let give = |sender: Transactor| async move {
        let sent = sender.send(Some(whom), Bytes::new(), U256::ONE, None);
        sent.await.map(|receipt| receipt.transaction_hash)
    };
    let hasty = sender().with_limit(Duration::from_millis(50));
    assert!(matches!(give(hasty).await, Err(ChainError::Transient(_))));
    let client = endpoint.provider().client();
    let mine = async || {
        let _: Value = client.request("evm_mine", json!([])).await.unwrap();
    };
    // The next daemons drive it until its block is final, and send other things meanwhile.
    for _ in 0..2 {
        let daemon = sender();
        while !daemon.carry().await.unwrap() {
            mine().await;
        }
        let other = tokio::spawn({
            let daemon = daemon.clone();
            let to = Some(Address::repeat_byte(8));
            async move {
                daemon
                    .send(to, Bytes::new(), U256::ZERO, None)
                    .await
                    .map(drop)
            }
        });
        while_mining(other, &mine).await.unwrap();
    }
    let given = async || endpoint.provider().get_balance(whom).await.unwrap();
    let told = timeout_at(Instant::now() + Duration::from_secs(60), give(sender())).await;
    let first = told.expect("it is mined already").unwrap();
    assert_eq!(given().await, U256::ONE, "it was paid twice");
    // A caller who was told, and asks again, means it.
    let waiting = tokio::spawn(give(sender()));
    assert_ne!(while_mining(waiting, &mine).await.unwrap(), first);
    assert_eq!(given().await, U256::from(2));
}

#[tokio::test]
async fn an_old_interrupted_sync_does_not_answer_a_later_one() {
    let anvil = Anvil::start(&["--slots-in-an-epoch", "1"]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let payer = Transactor::new(endpoint.clone(), &rich());
    let suite = crate::deploy::deploy(&payer, &[payer.address()], 1).await;
    let contract = suite.unwrap().contract;
    let nonce = payer.next_nonce().await.unwrap();
    let token = payer.mint(contract, 0, NAME, nonce).await.unwrap().token;
    let set_fee = [&keccak256("setSyncFee(uint256)")[..4], &[0; 31], &[1]].concat();
    let set = payer.send(Some(contract), set_fee.into(), U256::ZERO, None);
    set.await.unwrap();
    let ask = async |method: &'static str, params: Value| {
        let client = endpoint.provider().client();
        client.request::<_, Value>(method, params).await.unwrap();
    };
    let pass = async |seconds: u64| {
        ask("evm_increaseTime", json!([seconds])).await;
        ask("evm_mine", json!([])).await;
    };
    pass(SETTING_DELAY_S).await;
    ask("evm_setAutomine", json!([false])).await;
    let hasty = payer.clone().with_limit(Duration::from_millis(50));
    let cut = hasty.sync(contract, token).await;
    assert!(matches!(cut, Err(ChainError::Transient(_))), "{cut:?}");
    while !payer.carry().await.unwrap() {
        ask("evm_mine", json!([])).await;
    }
    ask("evm_setAutomine", json!([true])).await;
    pass(301).await;
    let since = endpoint.height().await.unwrap();
    let later = payer.sync(contract, token).await.unwrap();
    assert!(later.mined.block > since, "{later:?}");
}

#[tokio::test]
async fn an_interrupted_deployment_resumes_with_its_forwarder() {
    let anvil = Anvil::start(&[]);
    let servers = Servers::new(&[anvil.url()], None, Limits::default()).unwrap();
    let meddler = Meddler::new(BoxTransport::new(servers));
    let dir = tempfile::tempdir().unwrap();
    let payer = || Transactor::new(meddler.endpoint(), &rich()).kept_in(dir.path());
    let operators = [rich().address()];
    // Cut off between the two.
    let begun = Arc::new(AtomicBool::new(false));
    meddler.refuse(move |asked| {
        let sends = asked.method == "eth_sendRawTransaction";
        let cut = begun.fetch_or(sends, Ordering::Relaxed) && asked.method == "eth_estimateGas";
        cut.then_some((-32005, "limit exceeded"))
    });
    let cut = crate::deploy::deploy(&payer(), &operators, 1).await;
    assert!(matches!(cut, Err(ChainError::Transient(_))), "{cut:?}");
    meddler.refuse(|_| None);
    let made = crate::deploy::deploy(&payer(), &operators, 1).await;
    assert_eq!(made.unwrap().forwarder, rich().address().create(0));
    assert_eq!(payer().next_nonce().await.unwrap(), 2);
    // Repeated when both exist, it means two others.
    crate::deploy::deploy(&payer(), &operators, 1)
        .await
        .unwrap();
    assert_eq!(payer().next_nonce().await.unwrap(), 4);
}

#[tokio::test]
async fn an_underfunded_wallet_is_told_what_is_missing_before_signing() {
    let anvil = Anvil::start(&[]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let wallet = Wallet::random().unwrap();
    let poor = Transactor::new(endpoint.clone(), &wallet);
    let coin = U256::from(10).pow(U256::from(18));
    let sent = poor.send(Some(Address::ZERO), Bytes::new(), coin, None);
    let words = sent.await.unwrap_err().to_string();
    assert!(words.contains("1 coins is missing"), "{words}");
    let capped = Transactor::new(endpoint, &rich()).with_gas_cost_max(Some(U256::ONE));
    let sent = capped.send(Some(Address::ZERO), Bytes::new(), coin, None);
    let words = sent.await.unwrap_err().to_string();
    assert!(words.contains("--max-fee allows"), "{words}");
    assert_eq!(capped.next_nonce().await.unwrap(), 0);
}

#[tokio::test]
async fn unattended_transactions_stay_within_the_limit_on_fee_plus_gas() {
    let anvil = Anvil::start(&[]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let payer = Transactor::new(endpoint.clone(), &rich());
    let suite = crate::deploy::deploy(&payer, &[payer.address()], 1).await;
    let contract = suite.unwrap().contract;
    let nonce = payer.next_nonce().await.unwrap();
    let token = payer.mint(contract, 0, NAME, nonce).await.unwrap().token;
    let coin = U256::from(10).pow(U256::from(18));
    let set_fee = [
        &keccak256("setSyncFee(uint256)")[..4],
        &coin.to_be_bytes::<32>(),
    ]
    .concat();
    let set = payer.send(Some(contract), set_fee.into(), U256::ZERO, None);
    set.await.unwrap();
    let client = endpoint.provider().client();
    for (method, params) in [
        ("evm_increaseTime", json!([SETTING_DELAY_S])),
        ("evm_mine", json!([])),
    ] {
        client.request::<_, Value>(method, params).await.unwrap();
    }
    let before = payer.next_nonce().await.unwrap();
    let sender = |most| payer.clone().with_gas_cost_max(Some(most));

    // Half a coin covers the gas, but not one gas fee.
    let half = sender(coin / U256::from(2));
    let words = half.unasked().sync(contract, token).await.unwrap_err();
    let words = words.to_string();
    assert!(words.contains("--max-fee allows 0.5"), "{words}");
    let words = sender(coin)
        .unasked()
        .sync(contract, token)
        .await
        .unwrap_err();
    assert!(words.to_string().contains("--max-fee allows"), "{words}");
    assert_eq!(
        payer.next_nonce().await.unwrap(),
        before,
        "something was sent"
    );
    // Unattended, at most a tenth of a coin is spent by default.
    let words = payer.unasked().sync(contract, token).await.unwrap_err();
    assert!(words.to_string().contains("allows 0.1"), "{words}");
    assert_eq!(
        payer.next_nonce().await.unwrap(),
        before,
        "something was sent"
    );
    let two = sender(coin * U256::from(2));
    two.unasked().sync(contract, token).await.unwrap();
    assert_eq!(payer.next_nonce().await.unwrap(), before + 1);
}

#[tokio::test]
async fn an_endpoint_quoting_any_fee_cannot_exceed_the_unattended_limit() {
    let anvil = Anvil::start(&[]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let sender = Transactor::new(endpoint.clone(), &rich()).unasked();
    let client = endpoint.provider().client();
    let purpose = |wei: u64| Purpose {
        to: Some(Address::repeat_byte(9)),
        data: Bytes::new(),
        value: U256::from(wei),
        bound: false,
    };
    sender.post("first", purpose(1), None).await.unwrap();
    let given = async || {
        endpoint
            .provider()
            .get_balance(Address::repeat_byte(9))
            .await
    };
    while given().await.unwrap() != U256::ONE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // 10,000 gwei for one gas: 0.5 coins for the least that there is.
    let fee = json!(["0x9184e72a000"]);
    let _: Value = client
        .request("anvil_setNextBlockBaseFeePerGas", fee)
        .await
        .unwrap();
    let _: Value = client.request("evm_mine", json!([])).await.unwrap();
    // The value counts.
    let hundredth = 10_u64.pow(16);
    let told = sender.post("second", purpose(hundredth), None);
    let told = told.await.unwrap_err();
    assert!(told.to_string().contains("--max-fee allows 0.09"), "{told}");
    assert_eq!(sender.posted().await.unwrap().len(), 1);
}

#[tokio::test]
async fn without_a_shown_estimate_gas_is_limited_to_0_1_coins() {
    let anvil = Anvil::start(&[]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let payer = Transactor::new(endpoint.clone(), &rich()).unseen();
    let coin = U256::from(10).pow(U256::from(18));
    let whom = Some(Address::repeat_byte(9));
    // The value was requested.
    let sent = payer.send(whom, Bytes::new(), coin, None).await;
    sent.unwrap();
    // 10,000 gwei for one gas: 0.5 coins for the least that there is.
    let client = endpoint.provider().client();
    let fee = json!(["0x9184e72a000"]);
    let _: Value = client
        .request("anvil_setNextBlockBaseFeePerGas", fee)
        .await
        .unwrap();
    let _: Value = client.request("evm_mine", json!([])).await.unwrap();
    let told = payer.send(whom, Bytes::new(), coin, None).await;
    let told = told.unwrap_err().to_string();
    assert!(told.contains("--max-fee allows 0.1"), "{told}");
    assert_eq!(payer.next_nonce().await.unwrap(), 1, "something was sent");
    let allowed = payer.with_gas_cost_max(Some(coin));
    let sent = allowed.send(whom, Bytes::new(), coin, None).await;
    sent.unwrap();
}

/// On Sonic, with a charge's gas at the usual price.
#[tokio::test]
async fn a_charge_is_sent_at_usual_prices_and_waits_during_spikes() {
    let anvil = Anvil::start(&["--chain-id", "146", "--base-fee", "55000000000"]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let payer = Transactor::new(endpoint.clone(), &rich()).on_chain(146);
    let additive = older(&payer, Dialect::PxV2).await;
    add_package(&payer, additive, Dialect::PxV2).await;
    let token = payer.mint_bare(additive, 0).await.unwrap().token;
    let rpc = async |method: &'static str, params: Value| {
        let client = endpoint.provider().client();
        let _: Value = client.request(method, params).await.unwrap();
    };
    // Nearly empty blocks would have lowered the price.
    let price = async |wei: &str| {
        rpc("anvil_setNextBlockBaseFeePerGas", json!([wei])).await;
        rpc("evm_mine", json!([])).await;
    };
    for _ in 0..160 {
        price("0xcce416600").await;
    }
    let charger = Charger::new(payer.unasked(), additive, Dialect::PxV2, token);
    let report = charger.report(&[(1, 1_000)]).await.unwrap();
    assert_eq!(report.error, None, "a charge at 55 gwei");
    while payer.posted().await.unwrap()[0].mined.is_none() {
        payer.carry().await.unwrap();
    }
    // 1,100 gwei: within the total limit for the gas of a transfer.
    price("0x1001d1bf800").await;
    let whom = Some(Address::repeat_byte(9));
    let unasked = payer.unasked();
    let sent = unasked.send(whom, Bytes::new(), U256::ONE, None);
    let told = sent.await.unwrap_err().to_string();
    assert!(told.contains("more than 10 times what it did"), "{told}");
    // A user who allows it gets it at once.
    let allowed = payer.with_gas_cost_max(Some(U256::from(10).pow(U256::from(18))));
    let sent = allowed.send(whom, Bytes::new(), U256::ONE, None);
    sent.await.unwrap();
}

/// An on-demand anvil behind a proxy that reports three tenths of each estimate.
fn short_sighted(anvil: &Anvil) -> Meddler {
    let over = alloy::transports::http::Http::new(anvil.url().parse().unwrap());
    let meddler = Meddler::new(BoxTransport::new(over));
    meddler.lie(|asked, honest| match asked.method.as_str() {
        "eth_estimateGas" => {
            let gas = u64::from_str_radix(&honest.as_str().unwrap()[2..], 16).unwrap();
            json!(format!("{:#x}", gas * 3 / 10))
        }
        _ => honest,
    });
    meddler
}

/// Nodes refuse less than the intrinsic gas, and all later nonces would wait.
#[tokio::test]
async fn an_estimate_below_what_any_transaction_takes_is_not_signed_for() {
    let anvil = Anvil::start(&[]);
    let meddler = short_sighted(&anvil);
    let sender = Transactor::new(meddler.endpoint(), &rich()).unasked();
    let purpose = Purpose {
        to: Some(Address::repeat_byte(9)),
        data: Bytes::from_static(&[1; 100]),
        value: U256::ONE,
        bound: false,
    };
    let told = sender.post("charge", purpose.clone(), None).await;
    let told = told.unwrap_err().to_string();
    assert!(told.contains("takes 22600 at least"), "{told}");
    assert_eq!(sender.posted().await.unwrap(), []);
    meddler.lie(|_, honest| honest);
    // The driver sleeps until called.
    assert_eq!(sender.carry().await, Ok(true));
    assert_eq!(sender.asked().now_or_never(), None);
    sender.post("charge", purpose, None).await.unwrap();
    assert_eq!(sender.asked().now_or_never(), Some(()));
    sender.carry().await.unwrap();
    assert_eq!(sender.posted().await.unwrap()[0].mined, Some(1));
}

/// Too little gas blocks all later charges until a replacement.
#[tokio::test]
async fn a_charge_signed_with_too_little_gas_is_replaced() {
    let anvil = Anvil::start(&[]);
    let honest = Endpoint::http(anvil.url()).unwrap();
    let payer = Transactor::new(honest.clone(), &rich());
    let additive = older(&payer, Dialect::PxV2).await;
    let token = payer.mint_bare(additive, 0).await.unwrap().token;
    let rpc = async |method: &'static str, params: Value| {
        let client = honest.provider().client();
        let _: Value = client.request(method, params).await.unwrap();
    };
    rpc("evm_setAutomine", json!([false])).await;
    let meddler = short_sighted(&anvil);
    let sender = Transactor::new(meddler.endpoint(), &rich()).with_patience(Duration::ZERO);
    let charger = Charger::new(sender.unasked(), additive, Dialect::PxV2, token);
    let commits = [(1, 1_000), (2, 500)];
    charger.report(&commits[..1]).await.unwrap();
    meddler.lie(|_, honest| honest);
    charger.report(&commits).await.unwrap();
    // Later ones are checked when the first is in a block.
    for _ in &commits {
        sender.carry().await.unwrap();
        rpc("evm_mine", json!([])).await;
    }
    sender.carry().await.unwrap();
    let report = charger.report(&commits).await.unwrap();
    assert_eq!(report.error, None);
    let usage = PxV2::getStorageUsageInBytesCall { tokenId: token.0 };
    let usage = honest.call(additive, &usage, alloy::eips::BlockId::latest());
    assert_eq!(usage.await.unwrap(), U256::from(1_500));
}

#[tokio::test]
async fn a_stuck_queue_is_not_resent_at_every_check() {
    let anvil = Anvil::start(&["--no-mining"]);
    let over = alloy::transports::http::Http::new(anvil.url().parse().unwrap());
    let meddler = Meddler::new(BoxTransport::new(over));
    let patience = Duration::from_millis(200);
    let sender = Transactor::new(meddler.endpoint(), &rich()).with_patience(patience);
    let many = 5_u32;
    for index in 0..many {
        let purpose = Purpose {
            to: Some(Address::repeat_byte(9)),
            data: Bytes::new(),
            value: U256::from(index),
            bound: false,
        };
        let posted = sender.post(&index.to_string(), purpose, None).await;
        posted.unwrap();
    }
    meddler.asked();
    let began = Instant::now();
    let sent = || {
        let asked = meddler.asked().into_iter();
        asked
            .filter(|asked| asked.method == "eth_sendRawTransaction")
            .count()
    };
    let mut count = 0;
    for _ in 0..60 {
        // The stall is reported.
        let _ = sender.carry().await;
        count += sent();
    }
    let rounds = began.elapsed().as_millis() / patience.as_millis() + 1;
    let most = u128::from(many) * rounds;
    assert!(count as u128 <= most, "{count} in {rounds} rounds");
    // However long it lasts, ever more rarely: here each check is a round.
    let hasty = sender.clone().with_patience(Duration::ZERO);
    let looks = 60;
    for _ in 0..looks {
        let _ = hasty.carry().await;
    }
    let count = sent();
    assert!(0 < count && count < looks / 2, "{count} in {looks} looks");
}

/// Hundreds of tokens are flushed at once, each commit charged.
#[tokio::test]
async fn a_pending_transaction_costs_one_check_and_none_while_awaiting_finality() {
    let anvil = Anvil::start(&["--no-mining", "--slots-in-an-epoch", "8"]);
    let over = alloy::transports::http::Http::new(anvil.url().parse().unwrap());
    let meddler = Meddler::new(BoxTransport::new(over));
    let sender = Transactor::new(meddler.endpoint(), &rich());
    let many = 50;
    for index in 0..many {
        let purpose = Purpose {
            to: Some(Address::repeat_byte(9)),
            data: Bytes::new(),
            value: U256::from(index),
            bound: false,
        };
        sender
            .post(&index.to_string(), purpose, None)
            .await
            .unwrap();
    }
    let client = Endpoint::http(anvil.url()).unwrap();
    let mine = async |blocks: &str| {
        let client = client.provider().client();
        let _: Value = client.request("anvil_mine", json!([blocks])).await.unwrap();
    };
    let carried = async || {
        meddler.asked();
        sender.carry().await.unwrap();
        meddler.asked().len()
    };
    let few = 5;
    let asked = carried().await;
    assert!(
        asked <= many + few,
        "{asked} calls while none is in a block"
    );
    mine("0x1").await;
    let asked = carried().await;
    assert!(asked <= many + few, "{asked} calls to see them in a block");
    let seen = sender.posted().await.unwrap();
    assert!(seen.iter().all(|posted| posted.mined.is_some()));
    let asked = carried().await;
    assert!(asked <= few, "{asked} calls while nothing can have changed");
    mine("0x64").await;
    let asked = carried().await;
    assert!(asked <= 3 * many + few, "{asked} calls to see them final");
    let ended = sender.posted().await.unwrap();
    assert!(
        ended
            .iter()
            .all(|posted| posted.over == Some(Outcome::Happened))
    );
}

/// Asked on a terminal, with the price and the highest gas cost.
#[tokio::test]
async fn gas_dearer_than_agreed_is_not_paid() {
    let anvil = Anvil::start(&[]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let payer = Transactor::new(endpoint.clone(), &rich());
    let whom = Address::repeat_byte(9);
    let shown = payer.gas_of(whom, Bytes::new(), U256::ONE).await.unwrap();
    let agreed = payer.clone().with_price(Some(U256::ONE));
    let most = shown.wei * U256::from(2);
    let agreed = agreed.agreed(most);
    let raise = async |fee: &str| {
        let client = endpoint.provider().client();
        let fee = json!([fee]);
        let _: Value = client
            .request("anvil_setNextBlockBaseFeePerGas", fee)
            .await
            .unwrap();
        let _: Value = client.request("evm_mine", json!([])).await.unwrap();
    };
    // 10,000 gwei for one gas.
    raise("0x9184e72a000").await;
    let told = agreed.send(Some(whom), Bytes::new(), U256::ONE, None).await;
    let told = told.unwrap_err().to_string();
    assert!(told.contains("was agreed to: ask again"), "{told}");
    assert_eq!(payer.next_nonce().await.unwrap(), 0, "something was sent");
    // Slightly more than at the question is within what was shown.
    raise("0x59682f00").await;
    let sent = agreed.send(Some(whom), Bytes::new(), U256::ONE, None).await;
    let sent = sent.unwrap();
    let paid = U256::from(sent.effective_gas_price) * U256::from(sent.gas_used);
    assert!(paid <= most);
    // A lower limit stays.
    let bounded = payer.with_gas_cost_max(Some(U256::ONE)).agreed(most);
    let told = bounded
        .send(Some(whom), Bytes::new(), U256::ONE, None)
        .await;
    let told = told.unwrap_err().to_string();
    assert!(told.contains("--max-fee allows"), "{told}");
}

#[tokio::test]
async fn what_costs_more_by_now_than_was_agreed_to_is_not_bought() {
    let anvil = Anvil::start(&[]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let payer = Transactor::new(endpoint, &rich());
    let suite = crate::deploy::deploy(&payer, &[payer.address()], 1).await;
    let contract = suite.unwrap().contract;
    let price = payer.price(contract, 1).await.unwrap();
    let nonce = payer.next_nonce().await.unwrap();
    let less = payer.clone().with_price(Some(price - U256::ONE));
    let words = less.mint(contract, 1, NAME, nonce).await.unwrap_err();
    assert!(words.to_string().contains("was agreed to"), "{words}");
    assert_eq!(
        payer.next_nonce().await.unwrap(),
        nonce,
        "something was sent"
    );
    let agreed = payer.clone().with_price(Some(price));
    agreed.mint(contract, 1, NAME, nonce).await.unwrap();
}

#[tokio::test]
async fn a_commands_gas_cap_holds_for_whoever_resends_its_transaction() {
    let anvil = Anvil::start(&["--no-mining"]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sender = || {
        let sender = Transactor::new(endpoint.clone(), &rich()).kept_in(dir.path());
        sender.with_patience(Duration::from_millis(1))
    };
    // Enough for 21,000 gas plus spare now, not at several times the price.
    let cap = U256::from(10).pow(U256::from(14));
    let hasty = sender().with_gas_cost_max(Some(cap));
    let hasty = hasty.with_limit(Duration::from_millis(50));
    let whom = Some(Address::repeat_byte(7));
    let sent = hasty.send(whom, Bytes::new(), U256::ONE, None).await;
    assert!(matches!(sent, Err(ChainError::Transient(_))), "{sent:?}");
    drop(hasty);
    let client = endpoint.provider().client();
    let ask = async |method: &'static str, params: Value| {
        client.request::<_, Value>(method, params).await.unwrap();
    };
    ask("anvil_setNextBlockBaseFeePerGas", json!(["0x12a05f200"])).await;
    ask("evm_mine", json!([])).await;
    let daemon = sender();
    // Twice: first it is resent unchanged.
    let mut told = daemon.carry().await;
    if told.is_ok() {
        sleep(Duration::from_millis(5)).await;
        told = daemon.carry().await;
    }
    let words = told.unwrap_err().to_string();
    assert!(words.contains("more than is allowed"), "{words}");
}

#[tokio::test]
async fn what_was_cancelled_in_another_wallet_is_not_sent_again() {
    let anvil = Anvil::start(&["--no-mining", "--slots-in-an-epoch", "1"]);
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let sender = Transactor::new(endpoint.clone(), &rich());
    let sender = sender.with_patience(Duration::from_millis(5));
    let whom = Address::repeat_byte(7);
    let sending = tokio::spawn({
        let sender = sender.clone();
        async move { sender.send(Some(whom), Bytes::new(), U256::ONE, None).await }
    });
    let client = endpoint.provider().client();
    let pending = async || -> U256 {
        let block = json!([sender.address(), "pending"]);
        client
            .request("eth_getTransactionCount", block)
            .await
            .unwrap()
    };
    while pending().await.is_zero() {
        sleep(PAUSE_MIN).await;
    }
    // The same account cancels it: nothing to itself, for more, at the same nonce.
    let foreign = Transactor::new(endpoint.clone(), &rich());
    let before = Signed {
        gas: 21_000,
        max_fee: 1 << 40,
        tip: Some(1 << 39),
        hash: B256::ZERO,
        raw: Bytes::new(),
    };
    let nothing = Purpose {
        to: Some(sender.address()),
        data: Bytes::new(),
        value: U256::ZERO,
        bound: true,
    };
    let cancelled = foreign
        .sign_instead(&nothing, 0, &before, (1 << 40, 0))
        .await
        .unwrap();
    let sent = endpoint
        .provider()
        .send_raw_transaction(&cancelled.raw)
        .await;
    drop(sent.unwrap());
    while !sending.is_finished() {
        let _: Value = client.request("evm_mine", json!([])).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    let told = sending.await.unwrap().unwrap_err().to_string();
    assert!(told.contains("cancelled"), "{told}");
    for _ in 0..5 {
        sender.carry().await.unwrap();
        let _: Value = client.request("evm_mine", json!([])).await.unwrap();
    }
    let given = endpoint.provider().get_balance(whom).await.unwrap();
    assert_eq!(given, U256::ZERO, "it was sent again");
}

/// A charge is unpaid, and its token is sold at the very nonce it was signed for.
#[tokio::test]
async fn a_sold_tokens_charge_ends_once_it_can_no_longer_mine() {
    let site = Site::new().await;
    let wallet = Wallet::random().unwrap();
    let funds = json!([wallet.address(), "0x56bc75e2d63100000"]);
    site.rpc("anvil_setBalance", funds).await;
    let sender = Transactor::new(site.endpoint.clone(), &wallet);
    let sender = sender.with_patience(Duration::from_millis(1));
    let minted = sender.mint_for(site.additive, 1, U256::ZERO).await;
    let token = minted.unwrap().token;
    site.rpc("evm_setAutomine", json!([false])).await;
    for _ in 0..=FINAL {
        site.mine().await;
    }
    let charger = Charger::new(sender.clone(), site.additive, Dialect::PxV2, token);
    let commits = [(1, 4096), (2, 4096)];
    let report = charger.report(&commits).await.unwrap();
    assert_eq!((report.error, report.lost), (None, vec![]));
    let nonce = sender.next_nonce().await.unwrap() - 2;

    // Another wallet of the account sells it for a higher fee, and sends nothing at the next nonce.
    let sale = Purpose {
        to: Some(site.additive),
        data: calldata::transfer_calldata(wallet.address(), Address::repeat_byte(9), token),
        value: U256::ZERO,
        bound: true,
    };
    let nothing = Purpose {
        to: Some(wallet.address()),
        data: Bytes::new(),
        value: U256::ZERO,
        bound: true,
    };
    let before = Signed {
        gas: 300_000,
        max_fee: 1 << 40,
        tip: Some(1 << 39),
        hash: B256::ZERO,
        raw: Bytes::new(),
    };
    for (nonce, purpose) in [(nonce, sale), (nonce + 1, nothing)] {
        let signed = sender
            .sign_instead(&purpose, nonce, &before, (1 << 40, 0))
            .await;
        let raw = signed.unwrap().raw;
        let sent = site.endpoint.provider().send_raw_transaction(&raw).await;
        drop(sent.unwrap());
    }
    site.mine().await;
    let outcomes = async || {
        let posted = sender.posted().await.unwrap();
        posted.iter().map(|one| one.over).collect::<Vec<_>>()
    };
    // The block may be replaced: the charge could still come.
    sender.carry().await.unwrap();
    assert_eq!(outcomes().await, [None, None]);
    assert_eq!(charger.report(&commits).await.unwrap().lost, [0; 0]);

    for _ in 0..=FINAL {
        site.mine().await;
    }
    sender.carry().await.unwrap();
    assert_eq!(outcomes().await, [Some(Outcome::Refused); 2]);
    let mut looks = 0;
    let report = loop {
        let report = charger.report(&commits).await.unwrap();
        looks += 1;
        if !report.lost.is_empty() || looks > 5 {
            break report;
        }
    };
    assert_eq!(report.lost, [1, 2]);
    let told = report.error.unwrap().to_string();
    assert!(told.contains("reverted"), "{told}");
    for sequence in report.lost {
        charger.forget(sequence).await.unwrap();
    }
    assert_eq!(sender.posted().await.unwrap(), []);
    assert!(sender.carry().await.unwrap(), "something is on its way");
}

#[tokio::test]
async fn a_stored_transaction_an_endpoint_refuses_is_sent_again() {
    let anvil = Anvil::start(&[]);
    let servers = Servers::new(&[anvil.url()], None, Limits::default()).unwrap();
    let meddler = Meddler::new(BoxTransport::new(servers));
    let sender = Transactor::new(meddler.endpoint(), &rich());
    let sender = sender.with_patience(Duration::from_millis(1));
    let whom = Address::repeat_byte(7);
    let give = || sender.send(Some(whom), Bytes::new(), U256::ONE, None);
    meddler.refuse(|asked| {
        let sends = asked.method == "eth_sendRawTransaction";
        sends.then_some((-32000, "internal error"))
    });
    let told = give().await.unwrap_err().to_string();
    assert!(told.contains("the same command"), "{told}");
    meddler.refuse(|_| None);
    give().await.unwrap();
    let given = meddler.endpoint().provider().get_balance(whom).await;
    assert_eq!(given.unwrap(), U256::ONE, "once, by two commands");
}

#[tokio::test]
async fn a_nonce_taken_by_an_unknown_transaction_is_reported() {
    let anvil = Anvil::start(&["--no-mining"]);
    let servers = Servers::new(&[anvil.url()], None, Limits::default()).unwrap();
    let meddler = Meddler::new(BoxTransport::new(servers));
    let sender = Transactor::new(meddler.endpoint(), &rich());
    let purpose = Purpose {
        to: Some(Address::repeat_byte(9)),
        data: Bytes::new(),
        value: U256::ONE,
        bound: false,
    };
    sender.post("gift", purpose, None).await.unwrap();
    let ask = async |method: &'static str, params: Value| -> Value {
        let endpoint = meddler.endpoint();
        endpoint
            .provider()
            .client()
            .request(method, params)
            .await
            .unwrap()
    };
    // Its nonce was used by something that no block shows.
    ask("anvil_dropAllTransactions", json!([])).await;
    ask("anvil_setNonce", json!([sender.address(), "0x1"])).await;
    ask("evm_mine", json!([])).await;
    sender.carry().await.unwrap();
    let error = sender.posted().await.unwrap().remove(0).error;
    let error = error.expect("it says why");
    assert!(error.contains("its nonce 0 is taken"), "{error}");
}

#[tokio::test]
async fn a_busy_endpoint_does_not_count_as_lacking_finality() {
    let anvil = Anvil::start(&[]);
    let servers = Servers::new(&[anvil.url()], None, Limits::default()).unwrap();
    let meddler = Meddler::new(BoxTransport::new(servers));
    let sender = Transactor::new(meddler.endpoint(), &rich());
    let refuse = |code, words| {
        meddler.refuse(move |asked| {
            let asks = asked.method == "eth_getBlockByNumber" && asked.params[0] == "finalized";
            asks.then_some((code, words))
        });
    };
    refuse(-32005, "limit exceeded");
    let told = sender.final_block().await;
    assert!(matches!(told, Err(ChainError::Transient(_))), "{told:?}");
    refuse(-32602, "unknown block tag");
    assert_eq!(sender.final_block().await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_history_does_not_block_a_nonce_search() {
    let anvil = Anvil::start(&["--slots-in-an-epoch", "1"]);
    let servers = Servers::new(&[anvil.url()], None, Limits::default()).unwrap();
    let meddler = Meddler::new(BoxTransport::new(servers));
    let endpoint = meddler.endpoint();
    let mine = async || {
        let client = endpoint.provider().client();
        let mined = client.request::<_, Value>("anvil_mine", ("0x12c",));
        mined.await.unwrap();
    };
    let short = Duration::from_millis(1);
    let sender = Transactor::new(endpoint.clone(), &rich()).with_patience(short);
    let to = Address::repeat_byte(9);
    let purpose = Purpose {
        to: Some(to),
        data: Bytes::new(),
        value: U256::from(7),
        bound: false,
    };
    // Signed, lost on its way, and 300 blocks later another program has its nonce.
    meddler.refuse(|asked| {
        let lost = asked.method == "eth_sendRawTransaction";
        lost.then_some((-32005, "limit exceeded"))
    });
    sender.post("gift", purpose, None).await.unwrap();
    meddler.refuse(|_| None);
    mine().await;
    let foreign = Transactor::new(Endpoint::http(anvil.url()).unwrap(), &rich());
    let elsewhere = Some(Address::repeat_byte(8));
    let sent = foreign.send(elsewhere, Bytes::new(), U256::ONE, None).await;
    sent.unwrap();
    mine().await;
    meddler.refuse(|asked| {
        let block = asked.params[1].as_str().unwrap_or_default();
        let block = u64::from_str_radix(block.trim_start_matches("0x"), 16);
        let is_old = block.is_ok_and(|block| block < 500);
        let refused = asked.method == "eth_getTransactionCount" && is_old;
        refused.then_some((-32000, "missing trie node"))
    });
    let mut rounds = 0;
    while endpoint.provider().get_balance(to).await.unwrap() != U256::from(7) {
        meddler.asked();
        let told = sender.carry().await;
        let asked = meddler.asked();
        let blocks = asked
            .iter()
            .filter(|asked| asked.method == "eth_getBlockByNumber");
        assert!(blocks.count() < 80, "a part of the past at a time");
        if let Err(fault) = told {
            assert!(fault.to_string().contains("block by block"), "{fault}");
        }
        // Others are served in between.
        sender.next_nonce().await.unwrap();
        rounds += 1;
        assert!(rounds < 30, "it is found");
    }
    assert!(rounds > 3, "{rounds}: it was not looked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoning_a_store_write_never_reuses_its_serial() {
    struct SlowShelf(Arc<MemoryShelf>, Arc<Semaphore>);

    #[async_trait]
    impl Shelf for SlowShelf {
        async fn load(&self) -> Result<BTreeMap<u64, Vec<u8>>, ChainError> {
            self.0.load().await
        }
        async fn put(&self, serial: u64, bytes: Vec<u8>) -> Result<(), ChainError> {
            self.0.put(serial, bytes).await?;
            drop(self.1.acquire().await);
            Ok(())
        }
        async fn remove(&self, serial: u64) -> Result<(), ChainError> {
            self.0.remove(serial).await
        }
    }

    let anvil = Anvil::start(&["--no-mining"]);
    let shelf = Arc::new(MemoryShelf::default());
    let endpoint = Endpoint::http(anvil.url()).unwrap();
    let may_end = Arc::new(Semaphore::new(0));
    let slow = SlowShelf(Arc::clone(&shelf), Arc::clone(&may_end));
    let sender = Transactor::new(endpoint, &rich()).with_shelf(Arc::new(slow));
    let purpose = |wei| Purpose {
        to: Some(Address::repeat_byte(9)),
        data: Bytes::new(),
        value: U256::from(wei),
        bound: false,
    };
    let posting = sender.post("first", purpose(1), None);
    tokio::select! {
        _ = posting => panic!("it takes a while"),
        () = async { while shelf.load().await.unwrap().is_empty() { sleep(PAUSE_MIN).await } } => {}
    }
    may_end.add_permits(1);
    sender.post("second", purpose(2), None).await.unwrap();
    let tags: Vec<String> = (sender.posted().await.unwrap().into_iter())
        .map(|posted| posted.tag)
        .collect();
    assert_eq!(tags, ["first", "second"]);
    assert_eq!(
        shelf.load().await.unwrap().len(),
        2,
        "neither took the other's place"
    );
}
