//! The oracle end to end: request, name, document, report, effect on the contract.

use std::collections::BTreeSet;

use alloy::primitives::b256;
use async_trait::async_trait;
use cid::Cid;
use jiff::Timestamp;

use alloy::eips::BlockId;
use alloy::primitives::{Bytes, U256};
use alloy::providers::Provider;
use alloy::transports::BoxTransport;

use super::*;
use crate::contract::{OracleForwarder, failure, report_digest};
use crate::deploy::deploy;
use crate::embedded::{Genesis, Handle};
use crate::endpoint::Endpoint;
use crate::ledger::ContractLedger;
use crate::meddle::{Asked, Meddler};
use crate::transact::{Mined, SyncRequest, Synced};
use pxfs_base::clock::SystemClock;
use pxfs_base::types::{TokenKey, VolumeKey};
use pxfs_format::cid::{leaf_cid, node_cid, node_of_digest};
use pxfs_format::usage::Usage;
use pxfs_storage::names::key::NameKey;
use pxfs_storage::names::memory::MemoryNames;
use pxfs_storage::names::record::{Network, Record};
use pxfs_storage::names::{NameError, NameStore};
use pxfs_storage::store::memory::MemoryStore;
use pxfs_storage::store::{Block, BlockStore, BlockStoreExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const LIMIT: Duration = Duration::from_secs(60);
const ROOT: B256 = b256!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");

/// A contract with one token, its name key, the stores, and an operator.
struct Scene {
    payer: Transactor,
    contract: Address,
    token: TokenId,
    key: NameKey,
    names: Arc<MemoryNames>,
    blocks: Arc<MemoryStore>,
    signers: Vec<Wallet>,
    operator: Operator,
    version: std::sync::atomic::AtomicU64,
}

impl Scene {
    async fn new() -> Self {
        Self::with_key(NameKey::from_seed(&[9; 32]), 1).await
    }

    async fn with_key(key: NameKey, operators: usize) -> Self {
        let wallet = Wallet::random().unwrap();
        let genesis = Genesis::default().fund([wallet.address()]);
        let chain = Handle::memory(&genesis, Arc::new(SystemClock)).unwrap();
        let payer = Transactor::new(Endpoint::embedded(&chain), &wallet);
        let signers: Vec<_> = (0..operators).map(|_| Wallet::random().unwrap()).collect();
        let addresses: Vec<_> = signers.iter().map(Wallet::address).collect();
        let suite = deploy(&payer, &addresses, operators as u64).await.unwrap();
        let nonce = payer.next_nonce().await.unwrap();
        let minted = payer
            .mint(suite.contract, 0, &key.name(), nonce)
            .await
            .unwrap();
        let names = Arc::new(MemoryNames::new(Arc::new(SystemClock)));
        let blocks = Arc::new(MemoryStore::new());
        let reader = reader(&names, &blocks);
        let refs: Vec<_> = signers.iter().collect();
        let operator = Operator::new(payer.clone(), suite.contract, &refs, reader, suite.block);
        operator.check().await.unwrap();
        Self {
            payer,
            contract: suite.contract,
            token: minted.token,
            key,
            names,
            blocks,
            signers,
            operator,
            version: std::sync::atomic::AtomicU64::new(1),
        }
    }

    fn document(&self) -> Usage {
        Usage {
            volume: VolumeKey {
                token: TokenKey {
                    chain_id: 31337,
                    contract: self.contract,
                    token: self.token,
                },
                epoch: 1,
            },
            quota: 100 << 20,
            usage: 4711,
            uploads: 1,
            cid: None,
            root: Some(node_of_digest(ROOT.0)),
            sequence: 5,
            updated_s: 1_790_000_000,
        }
    }

    async fn put(&self, bytes: &[u8]) -> Cid {
        let cid = leaf_cid(bytes);
        let data = bytes::Bytes::copy_from_slice(bytes);
        self.blocks.put_many(&[Block { cid, data }]).await.unwrap();
        cid
    }

    async fn point(&self, cid: Cid) {
        let version = &self.version;
        let sequence = version.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let record = Record {
            network: Network::Ipfs,
            cid,
            sequence,
            end_of_life: Timestamp::from_second(4_000_000_000).unwrap(),
            ttl_ns: 0,
        };
        let record = record.sign(&self.key);
        self.names.publish(&self.key.name(), &record).await.unwrap();
    }

    async fn publish(&self, bytes: &[u8]) {
        let cid = self.put(bytes).await;
        self.point(cid).await;
    }

    async fn publish_document(&self, document: &Usage) {
        self.publish(&document.sign(self.key.signing_key()).unwrap())
            .await;
    }

    /// Requests a sync and lets the operator answer.
    async fn sync(&mut self) -> Result<Synced, ChainError> {
        let request = self.payer.sync(self.contract, self.token).await.unwrap();
        while self.operator.step().await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.payer.wait_synced(self.contract, &request, LIMIT).await
    }

    async fn fails_with(&mut self, code: u8) {
        let fault = self.sync().await.unwrap_err();
        let (token, why) = (self.token, failure(code));
        let line = format!("token {token} is not synced: {why} (code {code})");
        assert_eq!(fault, ChainError::Oracle(line));
    }

    async fn info(&self) -> crate::TokenInfo {
        let endpoint = self.payer.endpoint().clone();
        let ledger = ContractLedger::new(endpoint, self.contract, self.payer.address());
        ledger.token(self.token).await.unwrap()
    }
}

fn reader(names: &Arc<MemoryNames>, blocks: &Arc<MemoryStore>) -> Reader {
    reader_of(Arc::clone(names) as Arc<dyn NameStore>, blocks)
}

fn reader_of(names: Arc<dyn NameStore>, blocks: &Arc<MemoryStore>) -> Reader {
    let node = NodeDocuments {
        names,
        blocks: Arc::clone(blocks) as Arc<dyn BlockStore>,
        clock: Arc::new(SystemClock),
    };
    Reader {
        sources: vec![Arc::new(node)],
    }
}

#[tokio::test]
async fn a_sync_brings_the_documents_values_onto_the_chain() {
    let mut scene = Scene::new().await;
    scene.publish_document(&scene.document()).await;
    let synced = scene.sync().await.unwrap();
    assert_eq!(
        (synced.usage_bytes, synced.sequence, synced.root),
        (4711, 5, Some(ROOT))
    );
    let info = scene.info().await;
    assert_eq!(
        (info.usage_bytes, info.sequence, info.root),
        (4711, Some(5), Some(ROOT))
    );
    assert_eq!(info.sync_asked_s, None);
    // An idle token syncs again; less usage frees space.
    scene.sync().await.unwrap();
    let less = Usage {
        usage: 7,
        sequence: 6,
        root: None,
        ..scene.document()
    };
    scene.publish_document(&less).await;
    scene.sync().await.unwrap();
    let info = scene.info().await;
    assert_eq!(
        (info.usage_bytes, info.sequence, info.root),
        (7, Some(6), None)
    );
}

#[tokio::test]
async fn older_sequences_and_other_roots_are_refused_by_the_contract() {
    let mut scene = Scene::new().await;
    scene.publish_document(&scene.document()).await;
    scene.sync().await.unwrap();
    let older = Usage {
        sequence: 4,
        ..scene.document()
    };
    scene.publish_document(&older).await;
    scene.fails_with(130).await;
    let other = Usage {
        root: None,
        ..scene.document()
    };
    scene.publish_document(&other).await;
    scene.fails_with(131).await;
    assert_eq!(scene.info().await.sequence, Some(5));
}

#[tokio::test]
async fn what_cannot_be_had_closes_the_request_with_its_code() {
    let mut scene = Scene::new().await;
    scene.fails_with(1).await;
    let absent = leaf_cid(b"nobody has this");
    scene.point(absent).await;
    scene.fails_with(2).await;
    scene.point(node_of_digest(ROOT.0)).await;
    scene.fails_with(2).await;
    // A directory.
    let data = bytes::Bytes::from_static(&[0x0a, 0x04, 0x08, 0x01, 0x12, 0x00]);
    let cid = node_cid(&data);
    scene.blocks.put_many(&[Block { cid, data }]).await.unwrap();
    scene.point(cid).await;
    scene.fails_with(3).await;
    assert_eq!(scene.info().await.sequence, None);
}

#[tokio::test]
async fn documents_of_another_chain_contract_token_or_epoch_are_refused() {
    let mut scene = Scene::new().await;
    let good = scene.document();
    let mut others = vec![good.clone(); 4];
    others[0].volume.token.chain_id = 137;
    others[1].volume.token.contract = Address::ZERO;
    others[2].volume.token.token = TokenId::from(2);
    others[3].volume.epoch = 2;
    for other in others {
        scene.publish_document(&other).await;
        scene.fails_with(4).await;
    }
    scene.publish_document(&good).await;
    scene.sync().await.unwrap();
}

/// Deployed contracts may have taken one.
#[tokio::test]
async fn a_key_that_is_no_name_is_said_so() {
    let scene = Scene::new().await;
    let bad = format!("k51{}", "0".repeat(59));
    let (volume, reader) = (scene.document().volume, &scene.operator.reader);
    let refusal = reader.read(&volume, &bad).await.unwrap_err();
    assert_eq!(refusal.code, 5);
}

#[tokio::test]
async fn a_token_synced_all_day_stays_within_the_oracles_budget() {
    let mut scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let begun = |scene: &Scene| {
        let refs: Vec<_> = scene.signers.iter().collect();
        let sources = reader(&scene.names, &scene.blocks);
        let operator = Operator::new(scene.payer.clone(), scene.contract, &refs, sources, 0);
        let kept = operator.with_budget(2).kept_in(folder.path().join("place"));
        kept.unwrap()
    };
    scene.operator = begun(&scene);
    scene.publish_document(&scene.document()).await;
    for _ in 0..2 {
        scene.sync().await.unwrap();
        // Whatever ends it.
        scene.operator.keep(false).await;
        scene.operator = begun(&scene);
    }
    let (contract, token) = (scene.contract, scene.token);
    scene.payer.sync(contract, token).await.unwrap();
    let before = scene.payer.next_nonce().await.unwrap();
    assert_eq!(scene.operator.step().await.unwrap(), 0);
    assert_eq!(scene.payer.next_nonce().await.unwrap(), before);
    assert!(scene.info().await.sync_asked_s.is_some(), "it waits");
}

#[tokio::test]
async fn every_golden_document_is_judged_on_its_way_to_the_chain() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/usage");
    let mut scene = Scene::with_key(NameKey::from_seed(&[5; 32]), 1).await;
    let name = std::fs::read_to_string(folder.join("key.txt")).unwrap();
    assert_eq!(name.trim(), scene.key.name());
    let mut judged = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(verdict) = file
            .strip_suffix(".json")
            .and_then(|file| file.split('-').next())
        else {
            continue;
        };
        scene.publish(&std::fs::read(&path).unwrap()).await;
        // The good ones are signed, but for other tokens.
        let code = if verdict == "good" { 4 } else { 3 };
        scene.fails_with(code).await;
        judged.insert(verdict.to_owned());
    }
    assert_eq!(judged.into_iter().collect::<Vec<_>>(), ["bad", "good"]);
    assert_eq!(scene.info().await.sequence, None);
}

#[tokio::test]
async fn a_request_made_while_the_oracle_was_down_is_answered() {
    let scene = Scene::new().await;
    scene.publish_document(&scene.document()).await;
    let request = scene.payer.sync(scene.contract, scene.token).await.unwrap();
    let refs: Vec<_> = scene.signers.iter().collect();
    let sources = || reader(&scene.names, &scene.blocks);
    let start = |from| Operator::new(scene.payer.clone(), scene.contract, &refs, sources(), from);
    let mut first = start(0);
    assert_eq!(first.step().await.unwrap(), 1);
    scene
        .payer
        .wait_synced(scene.contract, &request, LIMIT)
        .await
        .unwrap();
    // Another operator, and this one after a restart, find nothing left to do.
    let before = scene.payer.next_nonce().await.unwrap();
    assert_eq!(start(0).step().await.unwrap(), 0);
    assert_eq!(start(first.next_block()).step().await.unwrap(), 0);
    assert_eq!(scene.payer.next_nonce().await.unwrap(), before);
}

fn refused(
    scene: &Scene,
    rule: impl Fn(&Asked) -> Option<(i64, &'static str)> + Send + Sync + 'static,
) -> Transactor {
    let below = scene
        .payer
        .endpoint()
        .provider()
        .client()
        .transport()
        .clone();
    let meddler = Meddler::new(BoxTransport::new(below));
    meddler.refuse(rule);
    Transactor::new(meddler.endpoint(), &Wallet::random().unwrap())
}

#[tokio::test]
async fn a_successful_sync_is_not_called_failed_if_logs_are_refused() {
    let mut scene = Scene::new().await;
    scene.publish_document(&scene.document()).await;
    let few = |asked: &Asked| {
        let many = asked.log_blocks().is_some_and(|blocks| blocks > 2);
        many.then_some((-32005, "block range limit exceeded"))
    };
    let none = |asked: &Asked| {
        let logs = asked.method == "eth_getLogs";
        logs.then_some((-32601, "the method does not exist"))
    };
    let request = scene.payer.sync(scene.contract, scene.token).await.unwrap();
    let (few, none) = (refused(&scene, few), refused(&scene, none));
    let open = few.open_sync(scene.contract, scene.token);
    // Only its receipt tells what it cost.
    let mined = Mined {
        paid: None,
        ..request.mined
    };
    let found = Some(SyncRequest { mined, ..request });
    assert_eq!(open.await.unwrap(), found);
    let short = Duration::from_millis(100);
    let waited = none.wait_synced(scene.contract, &request, short);
    let told = waited.await.unwrap_err().to_string();
    for words in [
        "no operator of the oracle has answered",
        "nothing needs to be paid again",
    ] {
        assert!(told.contains(words), "{told}");
    }

    while scene.operator.step().await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let landed = scene.payer.wait_synced(scene.contract, &request, LIMIT);
    let landed = landed.await.unwrap();
    let waited = few.wait_synced(scene.contract, &request, LIMIT);
    assert_eq!(waited.await.unwrap(), landed);
    let waited = none.wait_synced(scene.contract, &request, short);
    assert_eq!(waited.await.unwrap(), landed);
    // An earlier landing does not answer the request.
    let again = scene.payer.sync(scene.contract, scene.token).await.unwrap();
    let early = SyncRequest {
        mined: request.mined,
        ..again
    };
    let waited = scene.payer.wait_synced(scene.contract, &early, short);
    assert!(matches!(waited.await, Err(ChainError::Oracle(_))));
}

#[tokio::test]
async fn an_operator_that_catches_up_keeps_what_it_has_looked_through() {
    let scene = Scene::new().await;
    let request = scene.payer.sync(scene.contract, scene.token).await.unwrap();
    for _ in 0..40 {
        let to = Some(Address::repeat_byte(9));
        let sent = scene.payer.send(to, Bytes::new(), U256::ZERO, None);
        sent.await.unwrap();
    }
    let busy = Arc::new(AtomicBool::new(true));
    let rule = Arc::clone(&busy);
    // Four blocks at once, and none of the newer ones for now.
    let payer = refused(&scene, move |asked| {
        let blocks = asked.log_blocks()?;
        let from = asked.params[0]["fromBlock"]
            .as_str()?
            .trim_start_matches("0x");
        let is_new = u64::from_str_radix(from, 16).ok()? > 30;
        match rule.load(Ordering::Relaxed) {
            true if blocks > 4 => Some((-32005, "block range limit exceeded")),
            true if is_new => Some((-32005, "rate limit exceeded")),
            _ => None,
        }
    });
    let refs: Vec<_> = scene.signers.iter().collect();
    let sources = reader(&scene.names, &scene.blocks);
    let mut operator = Operator::new(payer, scene.contract, &refs, sources, 0);
    let fault = operator.look().await.unwrap_err();
    assert!(matches!(fault, ChainError::Transient(_)), "{fault}");
    assert!(operator.next_block > 25, "{}", operator.next_block);
    assert!(operator.open.contains_key(&request.request));
    assert_eq!(operator.next_block(), request.mined.block);
    // A server that gives more again is asked for more.
    busy.store(false, Ordering::Relaxed);
    operator.next_block = 0;
    operator.look().await.unwrap();
    assert!(operator.range >= 16, "{}", operator.range);
}

#[tokio::test]
async fn one_absurd_block_height_does_not_stop_an_operator() {
    let scene = Scene::new().await;
    let below = scene.payer.endpoint().provider();
    let meddler = Meddler::new(BoxTransport::new(below.client().transport().clone()));
    let lies = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&lies);
    meddler.lie(move |asked, honest| match asked.method.as_ref() {
        "eth_blockNumber" if told.load(Ordering::Relaxed) => {
            serde_json::json!("0xffffffffffffffff")
        }
        _ => honest,
    });
    let payer = Transactor::new(meddler.endpoint(), &Wallet::random().unwrap());
    let refs: Vec<_> = scene.signers.iter().collect();
    let sources = reader(&scene.names, &scene.blocks);
    let mut operator = Operator::new(payer, scene.contract, &refs, sources, 0);
    // Otherwise it would read every possible block.
    let looked = tokio::time::timeout(LIMIT, operator.look()).await;
    looked.expect("it ends").unwrap();
    lies.store(false, Ordering::Relaxed);
    let request = scene.payer.sync(scene.contract, scene.token).await.unwrap();
    operator.look().await.unwrap();
    assert!(operator.open.contains_key(&request.request));
    let logs = meddler.asked().into_iter();
    let logs = logs.filter(|asked| asked.method == "eth_getLogs");
    assert!(logs.count() <= 2 * RANGES);
}

#[tokio::test]
async fn two_of_two_operators_sign_one_report() {
    let mut scene = Scene::with_key(NameKey::from_seed(&[8; 32]), 2).await;
    scene.publish_document(&scene.document()).await;
    scene.sync().await.unwrap();
    let reader = reader(&scene.names, &scene.blocks);
    let alone = Operator::new(scene.payer, scene.contract, &[&scene.signers[0]], reader, 0);
    let fault = alone.check().await.unwrap_err();
    assert!(
        fault.to_string().contains("1 of the 2 signatures"),
        "{fault}"
    );
}

#[tokio::test]
async fn the_digest_is_the_forwarders() {
    let scene = Scene::new().await;
    let forwarder = scene.operator.forwarder().await.unwrap();
    let report = Bytes::from_static(&[1, 2, 3]);
    let call = OracleForwarder::digestCall {
        receiver: scene.contract,
        metadata: Bytes::new(),
        report: report.clone(),
    };
    let endpoint = scene.payer.endpoint();
    let theirs = endpoint.call(forwarder, &call, BlockId::latest()).await;
    let ours = report_digest(31337, forwarder, scene.contract, &Bytes::new(), &report);
    assert_eq!(ours, theirs.unwrap());
}

#[tokio::test]
async fn the_running_operator_answers_and_stops() {
    let scene = Scene::new().await;
    scene.publish_document(&scene.document()).await;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(scene.operator.run(Duration::from_millis(5), stopped));
    let request = scene.payer.sync(scene.contract, scene.token).await.unwrap();
    let synced = scene
        .payer
        .wait_synced(scene.contract, &request, LIMIT)
        .await;
    assert_eq!(synced.unwrap().usage_bytes, 4711);
    stop.send(true).unwrap();
    timeout(LIMIT, task).await.unwrap().unwrap();
}

struct Flaky {
    inner: Arc<MemoryNames>,
    failures: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl NameStore for Flaky {
    async fn publish(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, NameError> {
        self.inner.publish(name, record).await
    }

    async fn resolve(&self, name: &str) -> Result<Vec<u8>, NameError> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self
            .failures
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(NameError::Transient("down".to_owned())),
            Err(_) => self.inner.resolve(name).await,
        }
    }
}

#[tokio::test]
async fn a_store_that_is_down_for_a_moment_fails_no_sync() {
    for (failures, lands) in [(2, true), (1000, false)] {
        let mut scene = Scene::new().await;
        scene.publish_document(&scene.document()).await;
        let names = Arc::new(Flaky {
            inner: Arc::clone(&scene.names),
            failures: failures.into(),
        });
        scene.operator.reader = reader_of(names, &scene.blocks);
        match lands {
            true => assert_eq!(scene.sync().await.unwrap().usage_bytes, 4711),
            false => scene.fails_with(6).await,
        }
    }
}

#[derive(Default)]
struct Others(std::sync::Mutex<Vec<Statement>>);

#[async_trait]
impl Colleagues for Others {
    async fn statements(&self, _: B256) -> Vec<Statement> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn another_operators_report_counts_only_if_its_signature_is_valid() {
    use alloy::signers::SignerSync;
    let scene = Scene::with_key(NameKey::from_seed(&[8; 32]), 2).await;
    scene.publish_document(&scene.document()).await;
    let others = Arc::new(Others::default());
    let payer = scene.payer.clone();
    let reader = reader(&scene.names, &scene.blocks);
    let mut own = Operator::new(payer, scene.contract, &[&scene.signers[0]], reader, 0)
        .with_colleagues(Arc::clone(&others) as Arc<dyn Colleagues>);
    own.turn = Duration::ZERO;
    own.check().await.unwrap();
    let request = scene.payer.sync(scene.contract, scene.token).await.unwrap();
    assert_eq!(own.step().await.unwrap(), 0);
    let mine = own.board().get(request.request).unwrap();

    let forwarder = own.forwarder().await.unwrap();
    let sign = |wallet: &Wallet, report: &Bytes| {
        let digest = report_digest(31337, forwarder, scene.contract, &Bytes::new(), report);
        let signature = wallet.signer().sign_hash_sync(&digest).unwrap();
        vec![Bytes::from(signature.as_bytes())]
    };
    let newer = Usage {
        sequence: 9,
        ..scene.document()
    };
    let forged = newer
        .sign(NameKey::from_seed(&[1; 32]).signing_key())
        .unwrap();
    let mut other = mine.report.to_vec();
    other[4 * 32 + 31] = 9;
    let other = Bytes::from(other);
    let mut failed = mine.report.to_vec();
    failed[3 * 32..].fill(0);
    failed[7 * 32 - 1] = 4;
    let failed = Bytes::from(failed);
    let stranger = Wallet::random().unwrap();
    *others.0.lock().unwrap() = vec![
        Statement {
            signatures: sign(&scene.signers[1], &other),
            report: other,
            document: Some(String::from_utf8(forged).unwrap()),
        },
        Statement {
            signatures: sign(&stranger, &mine.report),
            ..mine.clone()
        },
        // Its own, returned.
        mine.clone(),
        Statement {
            signatures: sign(&scene.signers[1], &failed),
            report: failed,
            document: None,
        },
    ];
    tokio::time::sleep(TRY_MIN * 2).await;
    assert_eq!(own.step().await.unwrap(), 0);
    assert_eq!(own.board().get(request.request), Some(mine.clone()));

    others.0.lock().unwrap().push(Statement {
        signatures: sign(&scene.signers[1], &mine.report),
        ..mine
    });
    while own.step().await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let synced = scene.payer.wait_synced(scene.contract, &request, LIMIT);
    assert_eq!(synced.await.unwrap().sequence, 5);
    assert_eq!(own.board().get(request.request), None);
}
