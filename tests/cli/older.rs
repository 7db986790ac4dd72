//! Commands on a chain over HTTP, with a contract of an older dialect.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use alloy::primitives::{U256, hex};
use pxfs::chain::endpoint::Endpoint;
use pxfs::chain::transact::Transactor;
use pxfs::chain::wallet::Wallet;
use serde_json::{Value, json};

use crate::Home;
use crate::anvil::Anvil;

/// The first account of anvil.
const RICH: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// Deploys a compiled contract, as the wallet in `wallet`; answers its address.
pub(crate) fn deploy(url: &str, wallet: &Path, artifact: &str) -> String {
    let artifact: Value = serde_json::from_str(artifact).unwrap();
    let code = hex::decode(artifact["bytecode"].as_str().unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let wallet = Wallet::open(wallet, None).unwrap();
        let payer = Transactor::new(Endpoint::http(url).unwrap(), &wallet);
        let receipt = payer.send(None, code.into(), U256::ZERO, None).await;
        receipt.unwrap().contract_address.unwrap().to_string()
    })
}

/// Whoever owns a contract owns it no more: all of `px-v1` that are deployed are PollinationX's.
fn hand_over(url: &str, wallet: &Path, contract: &str) {
    let words = format!("f2fde38b{:0>64}", "bad0");
    let data = hex::decode(words).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let wallet = Wallet::open(wallet, None).unwrap();
        let payer = Transactor::new(Endpoint::http(url).unwrap(), &wallet);
        let contract = Some(contract.parse().unwrap());
        let sent = payer.send(contract, data.into(), U256::ZERO, None).await;
        sent.unwrap();
    });
}

#[test]
fn tokens_of_older_contracts_are_minted_listed_and_kept_open_over_http() {
    for (dialect, uploads, artifact) in [
        (
            "px-v1",
            Value::Null,
            include_str!("../../contracts/artifacts/PxV1Bare.json"),
        ),
        (
            "px-v2",
            json!(25),
            include_str!("../../contracts/artifacts/PxV2.json"),
        ),
    ] {
        let anvil = Anvil::start(&[]);
        let home = Home::new();
        let wallet = home.path("wallet");
        fs::write(&wallet, RICH).unwrap();
        fs::set_permissions(&wallet, fs::Permissions::from_mode(0o600)).unwrap();
        let contract = deploy(anvil.url(), &wallet, artifact);
        let parts = [
            format!("--rpc-url={}", anvil.url()),
            format!("--contract={contract}"),
            format!("--wallet={}", wallet.display()),
            format!("--node=embedded={}", home.path("node").display()),
            "--json".to_owned(),
        ];
        let ask = |words: &[&str]| -> Value {
            let words: Vec<&str> = words
                .iter()
                .copied()
                .chain(parts.iter().map(String::as_str))
                .collect();
            let output = home.run(&words);
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{words:?}: {told}");
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let token = || ask(&["tokens"])[0].clone();

        assert_eq!(ask(&["packages"])[0]["uploads"], uploads);
        let call = ask(&["mint", "--package", "0", "--print"]);
        assert_eq!(
            (&call["name"], &call["value_wei"]),
            (&Value::Null, &json!("0"))
        );
        let minted = ask(&["mint", "--package", "0", "--yes"]);
        assert_eq!(
            (&minted["token"], &minted["name"]),
            (&json!("1"), &Value::Null)
        );
        let owned = token();
        assert_eq!(
            (&owned["id"], &owned["dialect"], &owned["state"]),
            (&json!("1"), &json!(dialect), &json!("ok"))
        );
        assert_eq!(owned["uploads_left"], uploads);

        if dialect == "px-v1" {
            hand_over(anvil.url(), &wallet, &contract);
        }
        ask(&["dev", "advance", "31d"]);
        if dialect == "px-v1" {
            assert_eq!(
                (&token()["state"], &token()["sync_deadline"]),
                (&json!("ok"), &Value::Null)
            );
            let mut words = vec!["sync", "1", "--yes"];
            words.extend(parts[..4].iter().map(String::as_str));
            let refused = home.refused(1, &words);
            assert!(
                refused.contains("lets PollinationX alone report"),
                "{refused}"
            );
            let words: Vec<&str> = (["doctor"].into_iter())
                .chain(parts[..4].iter().map(String::as_str))
                .collect();
            let told = String::from_utf8_lossy(&home.run(&words).stdout).into_owned();
            assert!(told.contains("lets PollinationX alone report"), "{told}");
        } else {
            assert_eq!(token()["state"], "overdue");
            let synced = ask(&["sync", "1", "--yes"]);
            assert_eq!(
                (&synced["request"], &synced["usage"]),
                (&Value::Null, &json!(0))
            );
        }
        assert_eq!(
            (&token()["state"], &token()["uploads_left"]),
            (&json!("ok"), &uploads)
        );

        let mut words = vec!["register", "1", "--yes"];
        words.extend(
            parts
                .iter()
                .map(String::as_str)
                .filter(|part| *part != "--json"),
        );
        let refused = home.refused(1, &words);
        assert!(refused.contains("keeps no name keys"), "{refused}");

        // What reads the chain alone asks for no node.
        let bare = |words: &[&'static str]| -> Vec<String> {
            let named = parts.iter().filter(|part| !part.starts_with("--node"));
            let named = named.filter(|part| *part != "--json").cloned();
            words
                .iter()
                .map(|word| (*word).to_owned())
                .chain(named)
                .collect()
        };
        let run = |words: &[String]| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            home.run(&words)
        };
        for words in [&["tokens"][..], &["packages"]] {
            let output = run(&bare(words));
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{words:?}: {told}");
            let shown = String::from_utf8_lossy(&output.stdout);
            assert!(shown.contains("100.0 MiB"), "{words:?}: {shown}");
        }
        let output = run(&bare(&["mint", "--package", "0", "--yes"]));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("no storage node"), "{told}");
        assert_eq!(output.status.code(), Some(2));
    }
}
