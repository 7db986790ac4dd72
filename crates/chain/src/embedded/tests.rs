//! What a killed process loses, or not.

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{Block, Filter, TransactionReceipt};

use super::log::frame;
use super::*;
use crate::deploy::deploy;
use crate::endpoint::Endpoint;
use crate::transact::Transactor;
use crate::wallet::Wallet;
use pxfs_base::clock::{ManualClock, SystemClock};

fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// Everything that can be asked about the chain's past.
async fn history(endpoint: &Endpoint) -> Vec<(Block, Option<TransactionReceipt>)> {
    let provider = endpoint.provider();
    let mut blocks = Vec::new();
    for number in 0..=endpoint.height().await.unwrap() {
        let block = provider.get_block(BlockId::number(number)).await;
        let block = block.unwrap().unwrap();
        let receipt = match block.transactions.hashes().next() {
            Some(hash) => provider.get_transaction_receipt(hash).await.unwrap(),
            None => None,
        };
        blocks.push((block, receipt));
    }
    blocks
}

struct Sample {
    folder: tempfile::TempDir,
    content: Vec<u8>,
    history: Vec<(Block, Option<TransactionReceipt>)>,
    contract: Address,
}

/// A few blocks with contracts, tokens and moved time.
async fn sample() -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let wallet = Wallet::random().unwrap();
    let genesis = Genesis::default().fund([wallet.address()]);
    let chain = Handle::create(folder.path(), &genesis, system()).unwrap();
    let endpoint = Endpoint::embedded(&chain);
    let payer = Transactor::new(endpoint.clone(), &wallet);
    let suite = deploy(&payer, &[wallet.address()], 1).await.unwrap();
    payer.mint_bare(suite.contract, 0).await.unwrap();
    chain.advance(Duration::from_secs(100_000)).await.unwrap();
    payer.mint_bare(suite.contract, 1).await.unwrap();
    payer
        .send(
            Some(Address::repeat_byte(1)),
            Bytes::new(),
            U256::from(9),
            None,
        )
        .await
        .unwrap();
    let history = history(&endpoint).await;
    chain.close();
    Sample {
        content: std::fs::read(folder.path().join("chain.log")).unwrap(),
        folder,
        history,
        contract: suite.contract,
    }
}

#[tokio::test]
async fn a_chain_is_the_same_after_it_was_closed_and_opened() {
    let sample = sample().await;
    let chain = Handle::open(sample.folder.path(), system()).unwrap();
    let endpoint = Endpoint::embedded(&chain);
    assert_eq!(history(&endpoint).await, sample.history);
    let provider = endpoint.provider();
    let last = sample.history.last().unwrap().1.as_ref().unwrap();
    let found = provider
        .get_transaction_by_hash(last.transaction_hash)
        .await;
    assert_eq!(found.unwrap().unwrap().block_hash, last.block_hash);
    assert!(
        !provider
            .get_code_at(sample.contract)
            .await
            .unwrap()
            .is_empty()
    );
    let logs = Filter::new().from_block(0).address(sample.contract);
    let logs = provider.get_logs(&logs).await.unwrap();
    let minted = logs.iter().filter(|log| log.topics().len() == 4);
    assert_eq!(minted.count(), 2);
    // Time has moved for good, and the chain goes on.
    let before = sample.history.last().unwrap().0.header.timestamp;
    chain.advance(Duration::from_secs(5)).await.unwrap();
    let now = provider
        .get_block(BlockId::latest())
        .await
        .unwrap()
        .unwrap();
    assert!(now.header.timestamp >= before + 5);
    assert!(now.header.timestamp < before + 1000);
}

#[tokio::test]
async fn a_kill_at_any_byte_leaves_a_block_whole_or_absent() {
    let sample = sample().await;
    let path = sample.folder.path().join("chain.log");
    // From the last block but two: the deployment ends far before.
    let from = sample.content.len() - 2500;
    let mut heights = std::collections::BTreeSet::new();
    for length in from..=sample.content.len() {
        std::fs::write(&path, &sample.content[..length]).unwrap();
        let chain = Handle::open(sample.folder.path(), system()).unwrap();
        heights.insert(chain.height());
        if length % 97 == 0 || length == sample.content.len() {
            let history = history(&Endpoint::embedded(&chain)).await;
            assert_eq!(history[..], sample.history[..history.len()]);
        }
        chain.close();
        let kept = std::fs::metadata(&path).unwrap().len() as usize;
        assert!(kept <= length && sample.content.starts_with(&std::fs::read(&path).unwrap()));
    }
    let all = sample.history.len() as u64 - 1;
    assert!(
        heights.contains(&all) && heights.contains(&(all - 1)),
        "{heights:?}"
    );
}

#[tokio::test]
async fn a_record_that_was_changed_is_told_and_nothing_is_lost() {
    let sample = sample().await;
    let path = sample.folder.path().join("chain.log");
    let step = sample.content.len() / 200;
    for at in (0..sample.content.len() - 2500).step_by(step) {
        let mut bytes = sample.content.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let fault = Handle::open(sample.folder.path(), system()).unwrap_err();
        assert!(matches!(fault, ChainError::Damaged(_)), "{at}: {fault}");
        assert!(std::fs::read(&path).unwrap() == bytes, "{at}");
    }
}

#[tokio::test]
async fn a_record_whose_sum_was_mended_does_not_fit_its_hash() {
    let sample = sample().await;
    let path = sample.folder.path().join("chain.log");
    // Another balance in the last block, with a valid frame.
    let last = (0..sample.content.len()).rev().find_map(|at| {
        let tail = sample.content.get(at..)?;
        let length = u32::from_be_bytes(*tail.first_chunk()?) as usize;
        (length + 16 == tail.len()).then_some(at)
    });
    let last = last.unwrap();
    let mut record = sample.content[last + 8..sample.content.len() - 8].to_vec();
    let end = record.len() - 20;
    record[end] ^= 1;
    let bytes = [&sample.content[..last], &frame(&record)].concat();
    std::fs::write(&path, bytes).unwrap();
    let fault = Handle::open(sample.folder.path(), system()).unwrap_err();
    assert!(
        fault.to_string().contains("does not fit its hash"),
        "{fault}"
    );
}

#[tokio::test]
async fn what_was_undone_stays_undone() {
    let sample = sample().await;
    let chain = Handle::open(sample.folder.path(), system()).unwrap();
    let endpoint = Endpoint::embedded(&chain);
    let client = endpoint.provider().client();
    let snapshot: U256 = client.request_noparams("evm_snapshot").await.unwrap();
    chain.advance(Duration::from_secs(77_000)).await.unwrap();
    let done: bool = client.request("evm_revert", (snapshot,)).await.unwrap();
    assert!(done);
    chain.close();
    let chain = Handle::open(sample.folder.path(), system()).unwrap();
    assert_eq!(history(&Endpoint::embedded(&chain)).await, sample.history);
}

#[tokio::test]
async fn one_process_owns_the_folder_and_a_closed_chain_still_answers() {
    let sample = sample().await;
    let chain = Handle::open(sample.folder.path(), system()).unwrap();
    let second = Handle::open(sample.folder.path(), system()).unwrap_err();
    assert!(matches!(&second, ChainError::Busy(line) if line.contains("in use by another pxfs")));
    let again = Handle::create(sample.folder.path(), &Genesis::default(), system());
    assert!(matches!(again, Err(ChainError::Busy(_))));
    chain.close();
    assert!(chain.advance(Duration::from_secs(1)).await.is_err());
    let endpoint = Endpoint::embedded(&chain);
    assert_eq!(history(&endpoint).await, sample.history);
    Handle::open(sample.folder.path(), system()).unwrap();
    let none = tempfile::tempdir().unwrap();
    assert!(!Handle::exists(none.path()));
    assert!(matches!(
        Handle::open(none.path(), system()),
        Err(ChainError::Damaged(_))
    ));
}

#[tokio::test]
async fn chain_time_follows_the_wall_and_never_goes_back() {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000_000));
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
    let chain = Handle::memory(&Genesis::default(), shared).unwrap();
    let endpoint = Endpoint::embedded(&chain);
    let time = async |tag: BlockId| {
        let block = endpoint.provider().get_block(tag).await.unwrap();
        block.unwrap().header.timestamp - 1_700_000_000
    };
    assert_eq!(time(BlockId::latest()).await, 0);
    clock.advance(Duration::from_secs(10));
    assert_eq!(time(BlockId::latest()).await, 0);
    assert_eq!(time(BlockId::pending()).await, 10);
    chain.advance(Duration::from_secs(100)).await.unwrap();
    assert_eq!(time(BlockId::latest()).await, 110);
    chain.advance(Duration::ZERO).await.unwrap();
    assert_eq!(
        time(BlockId::latest()).await,
        110,
        "two blocks may have one second"
    );
    // A wall clock set back.
    let back: Arc<dyn Clock> = Arc::new(ManualClock::at(0));
    let folder = tempfile::tempdir().unwrap();
    let chain = Handle::create(folder.path(), &Genesis::default(), system()).unwrap();
    chain.advance(Duration::ZERO).await.unwrap();
    let endpoint = Endpoint::embedded(&chain);
    let latest = async |endpoint: &Endpoint| {
        let block = endpoint.provider().get_block(BlockId::latest()).await;
        block.unwrap().unwrap().header.timestamp
    };
    let before = latest(&endpoint).await;
    chain.close();
    let chain = Handle::open(folder.path(), back).unwrap();
    chain.advance(Duration::ZERO).await.unwrap();
    assert_eq!(latest(&Endpoint::embedded(&chain)).await, before);
}

/// Writes a chain of so many blocks without syncs, opens it, and returns the CPU time of that.
fn open_long(blocks: u64) -> Duration {
    let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let folder = tempfile::tempdir().unwrap();
    let wallet = Wallet::random().unwrap();
    let genesis = Genesis::default().fund([wallet.address()]);
    let mut chain = Chain::new(&genesis, 1_700_000_000);
    let mut content = frame(&Record::Genesis(genesis, 1_700_000_000).encode());
    for nonce in 0..blocks {
        let raw = transfer(&wallet, nonce, chain.next_base_fee());
        let (_, block) = chain.mine(raw, 1_700_000_000 + nonce).unwrap();
        let record = Record::Block(Box::new(block));
        content.extend(frame(&record.encode()));
        chain.take(record).unwrap();
    }
    std::fs::write(folder.path().join("chain.log"), &content).unwrap();
    let begun = cpu();
    let opened = Handle::open(folder.path(), system()).unwrap();
    let ended = cpu();
    assert_eq!(opened.height(), blocks);
    assert_eq!(opened.inner.shared.read().tip().hash, chain.tip().hash);
    let ns = |time: rustix::time::Timespec| time.tv_sec * 1_000_000_000 + time.tv_nsec;
    Duration::from_nanos((ns(ended) - ns(begun)).unsigned_abs())
}

#[test]
fn a_long_chain_comes_back_whole() {
    open_long(500);
}

#[test]
#[ignore = "benchmark: prints how long ten thousand blocks take to open"]
fn a_long_chain_opens_soon() {
    println!("10,000 blocks open in {:?} of CPU time", open_long(10_000));
}

fn transfer(wallet: &Wallet, nonce: u64, base_fee: u64) -> Bytes {
    use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
    use alloy::eips::eip2718::Encodable2718;
    use alloy::primitives::TxKind;
    use alloy::signers::SignerSync;
    let tx = TxEip1559 {
        chain_id: 31337,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: u128::from(base_fee) + 1,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(Address::left_padding_from(&nonce.to_be_bytes())),
        value: U256::ONE,
        ..TxEip1559::default()
    };
    let signature = wallet
        .signer()
        .sign_hash_sync(&tx.signature_hash())
        .unwrap();
    TxEnvelope::from(tx.into_signed(signature))
        .encoded_2718()
        .into()
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_and_harm_nothing() {
    let chain = Handle::memory(&Genesis::default(), system()).unwrap();
    let endpoint = Endpoint::embedded(&chain);
    let client = endpoint.provider().client();
    let cases = [
        (
            "eth_sendRawTransaction",
            serde_json::json!(["0x1234"]),
            -32602,
        ),
        ("eth_sendRawTransaction", serde_json::json!([]), -32602),
        ("eth_call", serde_json::json!({"to": 1}), -32602),
        (
            "eth_getBlockByNumber",
            serde_json::json!(["soon", false]),
            -32602,
        ),
        (
            "eth_getBalance",
            serde_json::json!([Address::ZERO, "0x77"]),
            -32000,
        ),
        (
            "eth_getLogs",
            serde_json::json!([{"fromBlock": "0x5", "toBlock": "0x1"}]),
            -32602,
        ),
        ("evm_increaseTime", serde_json::json!(["-5"]), -32602),
        ("eth_sendTransaction", serde_json::json!([{}]), -32601),
    ];
    for (method, params, code) in cases {
        let answer = client.request::<_, serde_json::Value>(method, params).await;
        let fault = answer.unwrap_err();
        let payload = fault.as_error_resp().unwrap();
        assert_eq!(payload.code, code, "{method}: {payload}");
    }
    assert_eq!(chain.height(), 0);
    let absent = endpoint
        .provider()
        .get_transaction_receipt(B256::ZERO)
        .await;
    assert_eq!(absent.unwrap(), None);
}

/// Tells the child of [`a_killed_process_has_mined_what_it_has_reported`] that it is the victim,
/// and where its chain is.
const VICTIM: &str = "PXFS_TEST_CHAIN_VICTIM";

fn payer() -> Wallet {
    Wallet::from_secret(zeroize::Zeroizing::new([7; 32])).unwrap()
}

/// Sends transactions and reports each, until killed.
async fn victim(folder: &Path) {
    let chain = Handle::open(folder, system()).unwrap();
    let payer = Transactor::new(Endpoint::embedded(&chain), &payer());
    for _ in 0..100_000 {
        let to = Some(Address::repeat_byte(2));
        let receipt = payer.send(to, Bytes::new(), U256::ONE, None).await.unwrap();
        let (hash, block) = (receipt.transaction_hash, receipt.block_hash.unwrap());
        println!("mined {hash} {block}");
    }
}

#[tokio::test]
async fn a_killed_process_has_mined_what_it_has_reported() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    if let Some(folder) = std::env::var_os(VICTIM) {
        return victim(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let genesis = Genesis::default().fund([payer().address()]);
    Handle::create(folder.path(), &genesis, system())
        .unwrap()
        .close();
    let mut reported = Vec::new();
    for round in 0..6 {
        let name = "embedded::tests::a_killed_process_has_mined_what_it_has_reported";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(VICTIM, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = lines.map_while(Result::ok);
        let mut mined = lines.filter_map(|line| {
            let (_, hashes) = line.split_once("mined ")?;
            let (hash, block) = hashes.split_once(' ')?;
            Some((hash.parse::<B256>().ok()?, block.parse::<B256>().ok()?))
        });
        let enough = mined.by_ref().take(1 + round * 5);
        reported.extend(enough);
        child.kill().unwrap();
        reported.extend(mined);
        child.wait().unwrap();
        let chain = Handle::open(folder.path(), system()).unwrap();
        let endpoint = Endpoint::embedded(&chain);
        for (hash, block) in &reported {
            let receipt = endpoint.provider().get_transaction_receipt(*hash).await;
            assert_eq!(receipt.unwrap().unwrap().block_hash, Some(*block));
        }
        // One more may be mined than was reported.
        assert!(chain.height() <= reported.len() as u64 + round as u64 + 1);
        chain.close();
    }
    assert!(reported.len() >= 6);
}
