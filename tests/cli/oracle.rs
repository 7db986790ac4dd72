//! `pxfs oracle`: real processes, each an operator, against compiled contracts on a real chain.

#[path = "oracle/world.rs"]
mod world;

use std::time::Duration;

use pxfs::chain::ChainError;
use pxfs::names::NameStore;
use pxfs::names::key::NameKey;
use pxfs::names::record::{BTNS_SEQUENCE, Network, Record};
use pxfs::names::rpc::RpcNames;
use pxfs::pack::{chunk, usage};
use pxfs::rpc::{Client, Dialect, Login};
use pxfs::store::BlockStoreExt;
use pxfs::store::rpc::{Patience, RpcStore};
use serde_json::{Value, json};

use crate::btfs::Btfs;
use crate::secret::{FORMS, LEVELS, assert_nowhere};
use world::{Gateway, World};

#[test]
fn an_operator_answers_stops_on_request_and_resumes_where_it_was() {
    let world = World::new(1, 1);
    let gateway = Gateway::start();
    let token = world.mint(7);
    gateway.serve(&token.name, &world.document(&token, 5, 4711));
    let mut operator = world.operator(0, &gateway, &[]);
    assert_eq!(operator.start["chain_id"], 31337);
    let synced = world.sync(&token).unwrap();
    assert_eq!((synced.usage_bytes, synced.sequence), (4711, 5));
    let told = operator.told(|told| told["outcome"] == "synced");
    assert_eq!(
        (&told["token"], &told["usage"], &told["sequence"]),
        (&json!("1"), &json!(4711), &json!(5))
    );
    assert_eq!(operator.end(), Some(0), "{}", operator.log());

    // Asked for while nobody was there.
    let height = world.height();
    gateway.serve(&token.name, &world.document(&token, 6, 12));
    let request = world.ask(&token);
    let operator = world.operator(0, &gateway, &[]);
    let next = operator.start["next_block"].as_u64().unwrap();
    assert!(next >= height, "it begins at {next}, and was at {height}");
    assert_eq!(world.wait(&request).unwrap().sequence, 6);
    assert_eq!(world.deliveries(), 2);
}

#[test]
fn a_sync_reads_both_document_forms_through_a_btfs_gateway() {
    let (world, node) = (World::new(1, 1), Btfs::start());
    let gateway = format!("--node=gateway={}/btns/{{name}}", node.gateway_url());
    let operator = world.operator_with(&[&gateway, "--allow-address=127.0.0.1"]);
    let token = world.mint(7);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = Client::new(&node.url(), Dialect::Btfs, Login::Open).unwrap();
    let store = RpcStore::new(client.clone(), Patience::default());
    let names = RpcNames::new(client, std::sync::Arc::new(pxfs::clock::SystemClock));
    for (sequence, is_leaf) in [(5, true), (6, false)] {
        let document = bytes::Bytes::from(world.document(&token, sequence, 100));
        let block = if is_leaf {
            chunk::leaf(document)
        } else {
            usage::block(&document).unwrap()
        };
        let record = Record {
            network: Network::Btfs,
            cid: block.cid,
            sequence: BTNS_SEQUENCE,
            end_of_life: format!("{}-01-01T00:00:00Z", 2100 + sequence)
                .parse()
                .unwrap(),
            ttl_ns: 0,
        };
        runtime.block_on(async {
            store.put_many(&[block]).await.unwrap();
            let record = record.sign(&token.key);
            names.publish(&token.name, &record).await.unwrap();
        });
        assert_eq!(world.sync(&token).unwrap().sequence, sequence);
    }
    drop(operator);
}

#[test]
fn two_of_three_operators_agree_on_the_newest_document_they_have() {
    let world = World::new(3, 2);
    let (fresh, old) = (Gateway::start(), Gateway::start());
    let token = world.mint(7);
    fresh.serve(&token.name, &world.document(&token, 9, 900));
    old.serve(&token.name, &world.document(&token, 8, 800));
    let ports = [world::free_port(), world::free_port(), world::free_port()];
    // The third is down: nobody listens there.
    let mut first = world.operator(0, &old, &ports);
    let request = world.ask(&token);
    let told = first.told(|told| told["outcome"] == "waits");
    assert_eq!(told["reason"], "1 of 2 operators have signed this report");
    let second = world.operator(1, &fresh, &ports);
    let synced = world.wait(&request).unwrap();
    assert_eq!((synced.usage_bytes, synced.sequence), (900, 9));
    assert_eq!(world.deliveries(), 1);

    // Neither finds one: they agree on what tells most, and the request does not stay open.
    let other = world.mint(8);
    fresh.serve(&other.name, b"nonsense");
    let fault = world.sync(&other).unwrap_err();
    assert!(fault.to_string().contains("(code 3)"), "{fault}");
    assert_eq!(world.deliveries(), 2);
    drop(second);
}

#[test]
fn a_batch_interrupted_by_kill_answers_each_request_exactly_once() {
    const TOKENS: u8 = 12;
    let world = World::new(1, 1);
    let gateway = Gateway::start();
    let tokens: Vec<_> = (0..TOKENS).map(|seed| world.mint(seed + 1)).collect();
    // One of them is slow, so that the kill comes in the middle.
    for token in &tokens {
        gateway.serve(&token.name, &world.document(token, 1, 100));
    }
    let requests: Vec<_> = tokens.iter().map(|token| world.ask(token)).collect();
    let mut operator = world.operator(0, &gateway, &[]);
    while world.deliveries() < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    operator.kill();
    let before = world.deliveries();
    let operator = world.operator(0, &gateway, &[]);
    for request in &requests {
        assert_eq!(world.wait(request).unwrap().usage_bytes, 100);
    }
    assert_eq!(world.deliveries(), usize::from(TOKENS));
    println!("killed after {before} of {TOKENS}");
    drop(operator);
}

#[test]
fn forged_foreign_and_stale_documents_are_refused_and_the_reason_is_told() {
    let world = World::new(1, 1);
    let gateway = Gateway::start();
    let token = world.mint(7);
    let mut operator = world.operator(0, &gateway, &[]);
    let good = world.document(&token, 5, 100);
    gateway.serve(&token.name, &good);
    world.sync(&token).unwrap();

    let other = world.mint(8);
    let forged = {
        let thief = NameKey::from_seed(&[99; 32]);
        world.document_by(&token, &thief, token.token, 1, 6)
    };
    let foreign = world.document_by(&token, &token.key, other.token, 1, 6);
    let earlier = world.document_by(&token, &token.key, token.token, 7, 6);
    let stale = world.document(&token, 4, 100);
    let truncated = &good[..good.len() - 1];
    for (document, code, reason) in [
        (&forged[..], 3, "not signed"),
        (truncated, 3, "not valid"),
        (&foreign, 4, "another token or epoch"),
        (&earlier, 4, "another token or epoch"),
        (&stale, 130, "older than what the chain has"),
        (&[b'x'; 70_000], 6, "longer than"),
    ] {
        gateway.serve(&token.name, document);
        let fault = world.sync(&token).unwrap_err();
        let told = operator.told(|told| told["outcome"] == "failed");
        assert_eq!(told["code"], code, "{told}");
        assert!(told["reason"].as_str().unwrap().contains(reason), "{told}");
        assert!(
            matches!(&fault, ChainError::Oracle(why) if why.contains(&format!("(code {code})")))
        );
        assert!(operator.log().contains(reason), "{}", operator.log());
    }
    // And nothing of it has stayed.
    gateway.serve(&token.name, &good);
    assert_eq!(world.sync(&token).unwrap().sequence, 5);
}

#[test]
fn gateways_in_private_networks_are_not_asked_unless_that_is_configured() {
    let world = World::new(1, 1);
    let gateway = Gateway::start();
    let token = world.mint(7);
    gateway.serve(&token.name, &world.document(&token, 5, 100));
    let refused = world.refused_operator(&[&format!("--node=gateway={}", gateway.url())]);
    assert!(
        refused.contains("127.0.0.1") && refused.contains("--allow-address"),
        "{refused}"
    );
    // By a name that leads there it is seen when it is asked.
    let by_name = gateway.url().replace("127.0.0.1", "localhost");
    let mut operator = world.operator_with(&[&format!("--node=gateway={by_name}")]);
    let fault = world.sync(&token).unwrap_err();
    assert!(fault.to_string().contains("(code 6)"), "{fault}");
    let told = operator.told(|told| told["outcome"] == "failed");
    assert!(
        told["reason"].as_str().unwrap().contains("private network"),
        "{told}"
    );
    assert_eq!(gateway.asked(), 0);
}

#[test]
fn who_is_no_operator_or_cannot_pay_is_told_so() {
    let world = World::new(3, 2);
    let gateway = Gateway::start();
    let at = format!("--node=gateway={}", gateway.url());
    let open = "--allow-address=127.0.0.0/8";
    let alone = world.refused_operator(&[&at, open]);
    assert!(
        alone.contains("1 of the 2") && alone.contains("--peer"),
        "{alone}"
    );
    let stranger = world.refused_stranger(&[&at, open]);
    assert!(stranger.contains("setOperators"), "{stranger}");

    let world = World::new(1, 1);
    let token = world.mint(7);
    gateway.serve(&token.name, &world.document(&token, 5, 100));
    world.impoverish(0);
    let mut operator = world.operator(0, &gateway, &[]);
    let request = world.ask(&token);
    let told: Value = operator.told(|told| told["outcome"] == "waits");
    assert!(
        told["reason"].as_str().unwrap().contains("is missing"),
        "{told}"
    );
    world.enrich(0);
    assert_eq!(world.wait(&request).unwrap().sequence, 5);
}

#[test]
fn an_operators_key_never_appears_in_its_output_or_files() {
    let world = World::new(1, 1);
    let gateway = Gateway::start();
    let token = world.mint(7);
    let node = format!("--node=gateway={}", gateway.url());
    let mut sequence = 0;
    let mut said = Vec::new();
    for level in LEVELS {
        for form in FORMS {
            sequence += 1;
            gateway.serve(&token.name, &world.document(&token, sequence, 100));
            let words = ["--log", level, "--log-format", form];
            let words = [&[&*node, "--allow-address=127.0.0.1"], &words[..]].concat();
            let mut operator = world.operator_with(&words);
            said.push(operator.start.to_string().into_bytes());
            assert_eq!(world.sync(&token).unwrap().sequence, sequence);
            let told = operator.told(|told| told["outcome"] == "synced");
            said.push(told.to_string().into_bytes());
            // Nobody has signed this one.
            gateway.serve(&token.name, b"nonsense");
            world.sync(&token).unwrap_err();
            assert_eq!(operator.end(), Some(0), "{}", operator.log());
        }
    }
    said.extend(world.files());
    assert_nowhere(world::OPERATORS[0], &said);
}
