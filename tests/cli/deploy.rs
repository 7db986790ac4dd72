//! `pxfs deploy` on a chain over HTTP, and that no secret comes out on the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::Home;
use crate::anvil::Anvil;
use crate::secret::{FORMS, LEVELS, assert_nowhere, files_below};

/// The first account of anvil.
pub(crate) const RICH: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const POOR: &str = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";

pub(crate) fn parts(home: &Home, anvil: &Anvil, secret: &str) -> [String; 3] {
    let wallet = home.path("wallet");
    fs::write(&wallet, secret).unwrap();
    fs::set_permissions(&wallet, fs::Permissions::from_mode(0o600)).unwrap();
    [
        format!("--rpc-url={}", anvil.url()),
        format!("--wallet={}", wallet.display()),
        format!("--node=embedded={}", home.path("node").display()),
    ]
}

pub(crate) fn with<'a>(words: &[&'a str], parts: &'a [String]) -> Vec<&'a str> {
    let parts = parts.iter().map(String::as_str);
    words.iter().copied().chain(parts).collect()
}

#[test]
fn deploy_asks_for_consent_to_the_price_then_allows_minting() {
    let (home, anvil) = (Home::new(), Anvil::start(&[]));
    let parts = parts(&home, &anvil, RICH);
    // Nobody is there to be asked.
    let line = home.refused(1, &with(&["deploy"], &parts));
    for words in ["chain 31337", " gas, at most ", " coins", "--yes"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    let line = home.refused(3, &with(&["deploy", "--yes", "--chain-id", "5"], &parts));
    assert!(line.contains("31337"), "{line}");
    let two = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    let twice = ["deploy", "--yes", "--operator", two, "--operator", two];
    home.refused(6, &with(&twice, &parts));

    let made = home.run(&with(&["deploy", "--yes", "--json"], &parts));
    let told = String::from_utf8(made.stderr).unwrap();
    assert!(
        made.status.success() && told.contains(" gas, at most "),
        "{told}"
    );
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["chain_id"], 31337);
    assert_ne!(made["forwarder"], made["contract"]);
    let contract = made["contract"].as_str().unwrap();
    let mint = [
        "mint",
        "--package",
        "0",
        "--yes",
        "--json",
        "--contract",
        contract,
    ];
    let minted = home.run(&with(&mint, &parts));
    let minted: Value = serde_json::from_slice(&minted.stdout).unwrap();
    assert_eq!(minted["token"], "1");
    assert!(minted["name"].as_str().unwrap().starts_with("k51"));

    // One that is there is trusted, and none is made.
    let there = ["deploy", "--yes", "--json", "--forwarder", two];
    let made = home.run(&with(&there, &parts));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["forwarder"], two.to_lowercase());
}

#[test]
fn deploy_without_funds_says_what_is_missing_and_sends_nothing() {
    let (home, anvil) = (Home::new(), Anvil::start(&[]));
    let parts = parts(&home, &anvil, POOR);
    let line = home.refused(6, &with(&["deploy", "--yes"], &parts));
    assert!(
        line.contains("has 0 coins") && line.contains("is missing"),
        "{line}"
    );
}

#[test]
fn the_wallet_key_never_appears_in_logs_answers_or_files() {
    let (home, anvil) = (Home::new(), Anvil::start(&[]));
    let parts = parts(&home, &anvil, RICH);
    let mut said: Vec<Vec<u8>> = Vec::new();
    let mut ask = |words: &[&str]| {
        let output = home.run(&with(words, &parts));
        let answer = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        said.extend([output.stdout, output.stderr]);
        answer
    };
    let made = ask(&["deploy", "--yes", "--json", "--log", "trace"]);
    let contract = made["contract"].as_str().unwrap().to_owned();
    for level in LEVELS {
        for form in FORMS {
            let more = [
                "--log",
                level,
                "--log-format",
                form,
                "--contract",
                &contract,
            ];
            for words in [
                &["mint", "--package", "0", "--yes", "--json"][..],
                &["mint", "--package", "1", "--print"],
                &["tokens", "--json"],
                &["register", "1", "--yes", "--new-volume"],
                &["sync", "1", "--yes", "--no-wait"],
                &["doctor"],
                // Refused.
                &["sync", "77", "--yes"],
                &["mint", "--package", "99", "--yes"],
            ] {
                ask(&[words, &more].concat());
            }
        }
    }
    let wallet = home.path("wallet");
    // As a variable, where that was asked for.
    let (rpc, node) = (parts[0].as_str(), parts[2].as_str());
    for words in [
        &["tokens"][..],
        &["sync", "1", "--yes", "--no-wait"],
        &["doctor"],
    ] {
        let from = [rpc, node, "--wallet=env:PX_KEY", "--contract", &*contract];
        let words = [words, &from[..], &["--json", "--log", "trace"][..]].concat();
        let output = home.command(&words).env("PX_KEY", RICH).output().unwrap();
        if words[0] == "tokens" {
            let tokens: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(!tokens.as_array().unwrap().is_empty(), "{tokens}");
        }
        said.extend([output.stdout, output.stderr]);
    }
    said.extend(files_below(home.dir.path(), &wallet));
    assert_nowhere(RICH, &said);
}

#[test]
fn a_wallet_key_is_read_only_from_the_variable_named() {
    let (home, anvil) = (Home::new(), Anvil::start(&[]));
    let rpc = format!("--rpc-url={}", anvil.url());
    let node = format!("--node=embedded={}", home.path("node").display());
    let words = ["deploy", "--yes", &rpc, &node, "--wallet=env:PX_KEY"];
    let line = home.refused(2, &words);
    assert!(
        line.contains("env:PX_KEY") && line.contains("set it"),
        "{line}"
    );
    let made = home.command(&words).env("PX_KEY", RICH).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let torn = home.command(&words).env("PX_KEY", "rubbish").output();
    let torn = torn.unwrap();
    assert_eq!(torn.status.code(), Some(2));
    let said = String::from_utf8(torn.stderr).unwrap();
    assert!(!said.contains("rubbish"), "{said}");
    // Nobody asked for these.
    let unasked = ["deploy", "--yes", &rpc, &node];
    let mut unasked = home.command(&unasked);
    unasked.env("PX_KEY", RICH).env("PXFS_KEY", RICH);
    assert!(!unasked.output().unwrap().status.success());
}
