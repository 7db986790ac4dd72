//! Checks that follow the contract's logs.

use alloy::primitives::{B256, keccak256};
use alloy::sol_types::SolValue;

use super::*;
use crate::contract::{Report, token_code};
use crate::embedded::Handle;

const NAME: &str = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r";

/// A `px-sync` contract whose reports the payer makes, behind a counting transport.
struct Followed {
    handle: Handle,
    meddler: Meddler,
    payer: Transactor,
    ledger: ContractLedger,
}

impl Followed {
    async fn new() -> Self {
        let handle = embedded_handle();
        let meddler = Meddler::new(BoxTransport::new(handle.clone()));
        let payer = Transactor::new(Endpoint::embedded(&handle), &rich());
        let me = payer.address();
        let code = token_code(me, me).unwrap();
        let made = payer.send(None, code, U256::ZERO, None).await.unwrap();
        let contract = made.contract_address.unwrap();
        Self {
            ledger: ContractLedger::new(meddler.endpoint(), contract, me),
            handle,
            meddler,
            payer,
        }
    }

    fn contract(&self) -> Address {
        self.ledger.contract()
    }

    async fn pass(&self, seconds: u64) {
        let chain = Endpoint::embedded(&self.handle);
        chain.advance(Duration::from_secs(seconds)).await.unwrap();
    }

    /// The first checks; from here logs suffice.
    async fn follow(&self) {
        for _ in 0..2 {
            self.ledger.look(Reading::Changed).await.unwrap();
        }
        self.forget();
    }

    fn forget(&self) {
        self.meddler.asked();
        self.meddler.packets();
        self.meddler.bytes();
    }

    /// Requests of a check that finds no change, and whether it listed tokens.
    async fn sees_all(&self) -> (u64, bool) {
        self.forget();
        let seen = self.ledger.look(Reading::Changed).await.unwrap();
        let packets = self.meddler.packets();
        let lists = PxSync::tokensOfCall::SELECTOR;
        let listed = self.meddler.asked().iter().any(|asked| asked.calls(lists));
        let all = self.all().await;
        assert_eq!((seen.block, seen.tokens), (all.block, all.tokens));
        (packets, listed)
    }

    async fn all(&self) -> Snapshot {
        let endpoint = Endpoint::embedded(&self.handle);
        let ledger = ContractLedger::new(endpoint, self.contract(), self.payer.address());
        ledger.snapshot().await.unwrap()
    }

    /// Reports `usage` of `token`, or an error with the block in which it was seen.
    async fn report(&self, token: TokenId, request: B256, usage: u64, error: u8) {
        let (usage, sequence) = match error {
            0 => (usage, 1),
            _ => {
                let head = self.all().await;
                (head.block, head.timestamp_s)
            }
        };
        let report = Report {
            request,
            token: token.0,
            epoch: 1,
            usage,
            sequence,
            root: B256::repeat_byte(7),
            error,
        };
        let words = (Bytes::new(), report.encode()).abi_encode_params();
        let data = [&keccak256("onReport(bytes,bytes)")[..4], &words].concat();
        send(&self.payer, self.contract(), data.into()).await;
    }
}

#[tokio::test]
async fn whatever_happens_to_a_token_is_seen_without_reading_the_others() {
    let world = Followed::new().await;
    let (payer, contract) = (&world.payer, world.contract());
    let kept = payer.mint_bare(contract, 1).await.unwrap().token;
    world.follow().await;
    assert_eq!(world.sees_all().await, (1, false), "nothing has changed");

    let seen = async |what: &str| assert_eq!(world.sees_all().await, (2, false), "{what}");
    let nonce = payer.next_nonce().await.unwrap();
    let minted = payer.mint(contract, 0, NAME, nonce).await.unwrap().token;
    seen("a token that was minted").await;
    let request = payer.sync(contract, minted).await.unwrap().request;
    seen("a request for a sync").await;
    world.report(minted, request, 5 << 20, 0).await;
    seen("a sync").await;
    world.pass(600).await;
    let request = payer.sync(contract, minted).await.unwrap().request;
    seen("another request").await;
    world.report(minted, request, 0, 2).await;
    seen("a sync that failed").await;
    payer.upgrade(contract, minted, 1).await.unwrap();
    seen("a larger package").await;
    let nonce = payer.next_nonce().await.unwrap();
    let given = payer.register(contract, minted, NAME, nonce);
    given.await.unwrap();
    seen("another epoch").await;
    payer
        .transfer(contract, kept, Address::repeat_byte(9))
        .await
        .unwrap();
    seen("a token that was given away").await;
}

/// Others' tokens cost nothing but their logs.
#[tokio::test]
async fn what_happens_to_others_tokens_is_not_read() {
    let world = Followed::new().await;
    let contract = world.contract();
    world.payer.mint_bare(contract, 1).await.unwrap();
    world.follow().await;
    let wallet = Wallet::random().unwrap();
    let endpoint = Endpoint::embedded(&world.handle);
    give(&endpoint, wallet.address()).await;
    let other = Transactor::new(endpoint, &wallet);
    let theirs = other.mint_bare(contract, 1).await.unwrap().token;
    let nonce = other.next_nonce().await.unwrap();
    other.register(contract, theirs, NAME, nonce).await.unwrap();
    assert_eq!(world.sees_all().await, (1, false));
    other
        .transfer(contract, theirs, world.payer.address())
        .await
        .unwrap();
    assert_eq!(world.sees_all().await, (2, false), "it is ours now");
}

#[tokio::test]
async fn a_block_that_is_replaced_takes_back_what_it_told() {
    let world = Followed::new().await;
    let token = world
        .payer
        .mint_bare(world.contract(), 1)
        .await
        .unwrap()
        .token;
    world.follow().await;
    let nonce = world.payer.next_nonce().await.unwrap();
    let named = world.payer.register(world.contract(), token, NAME, nonce);
    named.await.unwrap();
    world.ledger.look(Reading::Changed).await.unwrap();
    world.meddler.asked();
    // As if the block had never been.
    world
        .meddler
        .lie(|asked, honest| match asked.method == "eth_getLogs" {
            true => serde_json::json!([]),
            false => honest,
        });
    world.ledger.look(Reading::Changed).await.unwrap();
    let read = PxSync::tokenInfoCall::SELECTOR;
    let asked = world.meddler.asked();
    assert!(
        asked.iter().any(|asked| asked.calls(read)),
        "it is read anew"
    );
}

#[tokio::test]
async fn refused_log_queries_fall_back_to_full_reads_for_an_hour() {
    let world = Followed::new().await;
    world.payer.mint_bare(world.contract(), 1).await.unwrap();
    world.follow().await;
    let refusal = |asked: &Asked| {
        let logs = asked.method == "eth_getLogs";
        logs.then_some((-32602, "eth_getLogs is limited to a 10 block range"))
    };
    world.meddler.refuse(refusal);
    world.payer.mint_bare(world.contract(), 1).await.unwrap();
    assert_eq!(world.sees_all().await, (2, true));
    let mut asked = 0;
    for _ in 0..48 {
        world.pass(75).await;
        world.ledger.look(Reading::Changed).await.unwrap();
        let logs = world.meddler.asked().into_iter();
        asked += logs.filter(|asked| asked.method == "eth_getLogs").count();
    }
    assert!(asked <= 1, "{asked}");
    world.meddler.refuse(|_| None);
    for _ in 0..60 {
        world.pass(75).await;
        world.ledger.look(Reading::Changed).await.unwrap();
    }
    assert_eq!(world.sees_all().await, (1, false), "they are tried again");
}

#[tokio::test]
async fn a_server_that_never_answers_for_logs_still_shows_what_there_is() {
    let world = Followed::new().await;
    world.payer.mint_bare(world.contract(), 1).await.unwrap();
    world.follow().await;
    let silent = Arc::new(Notify::new());
    let told = Arc::clone(&silent);
    world.meddler.refuse(move |asked| {
        let logs = asked.method == "eth_getLogs";
        logs.then(|| {
            told.notify_one();
            SILENCE
        })
    });
    world.payer.mint_bare(world.contract(), 1).await.unwrap();
    let mut failed = 0;
    for _ in 0..20 {
        tokio::select! {
            seen = world.ledger.look(Reading::Changed) => assert_eq!(seen.unwrap().tokens.len(), 2),
            // The waiter gives up.
            () = silent.notified() => failed += 1,
        }
    }
    assert!(failed <= 2, "{failed} looks of 20 came to nothing");
    let world = Followed::new().await;
    world.follow().await;
    world.meddler.refuse(|_| Some((-32000, "server is busy")));
    for _ in 0..9 {
        world.ledger.look(Reading::Changed).await.unwrap_err();
    }
    world.meddler.refuse(|_| None);
    for _ in 0..4 {
        world.ledger.look(Reading::Changed).await.unwrap();
    }
    assert_eq!(world.sees_all().await, (1, false));
}

/// On legacy contracts some changes leave no log.
#[tokio::test]
async fn changes_without_a_log_on_legacy_contracts_are_seen_later() {
    let old = old(Dialect::PxV2).await;
    let ledger = old.ledger();
    let usage = async |reading| {
        let seen = ledger.look(reading).await.unwrap();
        seen.tokens[0].usage_bytes
    };
    for _ in 0..2 {
        usage(Reading::Changed).await;
    }
    charge(&old.payer, old.contract, Dialect::PxV2, old.token, 1000).await;
    assert_eq!(
        usage(Reading::All).await,
        1000,
        "whoever wants to know reads it"
    );
    charge(&old.payer, old.contract, Dialect::PxV2, old.token, 1000).await;
    old.meddler
        .endpoint()
        .advance(Duration::from_secs(75))
        .await
        .unwrap();
    assert_eq!(usage(Reading::Changed).await, 2000);
    let away = old
        .payer
        .transfer(old.contract, old.token, Address::repeat_byte(9));
    away.await.unwrap();
    assert_eq!(ledger.look(Reading::Changed).await.unwrap().tokens, []);
}

/// Requests and bytes of an idle hour with a check every 75 s, averaged over ten.
async fn idle_hour(count: u64) -> (u64, u64) {
    let world = Followed::new().await;
    let price = world.ledger.packages().await.unwrap()[1].price;
    let site = super::refresh::Counted::of(world.meddler.clone(), &world.payer);
    site.mint(world.contract(), Dialect::PxSync, count, price)
        .await;
    world.follow().await;
    for _ in 0..10 * 48 {
        world.pass(75).await;
        let seen = world.ledger.look(Reading::Changed).await.unwrap();
        assert_eq!(seen.tokens.len() as u64, count);
    }
    let (packets, bytes) = (world.meddler.packets(), world.meddler.bytes());
    world.ledger.look(Reading::All).await.unwrap();
    let list = (world.meddler.packets(), world.meddler.bytes());
    println!(
        "{count} tokens: {} requests and {} bytes an hour; a list of all is {list:?}",
        packets.div_ceil(10),
        bytes / 10
    );
    (packets.div_ceil(10), bytes / 10)
}

#[tokio::test]
async fn an_hour_in_which_nothing_happens_takes_few_requests_however_many_tokens() {
    for count in [1, 500] {
        let (packets, bytes) = idle_hour(count).await;
        assert!(
            packets <= 60 && bytes <= 1 << 20,
            "{count}: {packets}, {bytes}"
        );
    }
}

#[tokio::test]
#[ignore = "benchmark: minting 5,000 tokens takes a while"]
async fn an_hour_of_five_thousand_tokens() {
    let (packets, bytes) = idle_hour(5_000).await;
    assert!(packets <= 60 && bytes <= 1 << 20, "{packets}, {bytes}");
}
