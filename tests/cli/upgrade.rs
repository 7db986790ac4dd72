//! `pxfs upgrade` on a chain over HTTP: the price and the gas first, then a larger token, or more uploads.

use alloy::primitives::{Address, U256, keccak256};
use alloy::sol_types::SolValue;
use pxfs::chain::endpoint::Endpoint;
use pxfs::chain::transact::Transactor;
use pxfs::chain::wallet::Wallet;
use serde_json::{Value, json};

use crate::Home;
use crate::anvil::Anvil;
use crate::deploy::{RICH, parts, with};
use crate::older::deploy;

/// What a command answers in JSON.
fn ask(home: &Home, words: &[&str], parts: &[String]) -> Value {
    let output = home.run(&with(&[words, &["--json"]].concat(), parts));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn upgrade_needs_consent_to_price_and_gas() {
    let (home, anvil) = (Home::new(), Anvil::start(&[]));
    let mut parts = parts(&home, &anvil, RICH).to_vec();
    let made = ask(&home, &["deploy", "--yes"], &parts);
    parts.push(format!("--contract={}", made["contract"].as_str().unwrap()));
    let asked = |words: &[&str]| home.refused(1, &with(words, &parts));

    // Nobody is there to be asked: what would be asked stands in the line.
    let line = asked(&["mint", "--package", "1"]);
    let contract = made["contract"].as_str().unwrap().to_lowercase();
    for words in [
        "1GB",
        "for 0.1 coins",
        " gas, at most 0.0",
        "on chain 31337",
        "from account 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        "--yes",
    ] {
        assert!(line.contains(words), "{words}: {line}");
    }
    assert!(line.to_lowercase().contains(&contract), "{line}");
    let minted = ask(&home, &["mint", "--package", "0", "--yes"], &parts);
    let line = asked(&["register", "1", "--new-volume"]);
    assert!(
        line.contains(" gas, at most 0.0") && line.contains("empty drive"),
        "{line}"
    );
    let line = asked(&["upgrade", "1", "--package", "2"]);
    for words in ["5GB, 5.0 GiB", "for 0.4 coins", " gas, at most 0.0"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    let token = || ask(&home, &["tokens"], &parts)[0].clone();
    assert_eq!(token()["quota_bytes"], 100 << 20);

    let call = ask(
        &home,
        &["upgrade", "1", "--package", "2", "--print"],
        &parts,
    );
    assert_eq!(call["value_wei"], "400000000000000000");
    assert!(call["gas"].as_u64().unwrap() > 21_000, "{call}");
    let upgraded = ask(&home, &["upgrade", "1", "--package", "2", "--yes"], &parts);
    assert_eq!(upgraded["name"], minted["name"]);
    assert_eq!(token()["quota_bytes"], 5_u64 << 30);
    // Nothing is paid for what would have no effect.
    for package in ["2", "1", "9"] {
        let line = home.refused(
            5,
            &with(&["upgrade", "1", "--package", package, "--yes"], &parts),
        );
        assert!(line.contains("pxfs packages"), "{line}");
    }
    home.refused(
        1,
        &with(&["upgrade", "1", "--uploads", "0", "--yes"], &parts),
    );
    home.refused(2, &with(&["upgrade", "1", "--yes"], &parts));
}

#[test]
fn uploads_are_bought_where_the_contract_counts_them() {
    let (home, anvil) = (Home::new(), Anvil::start(&[]));
    let mut parts = parts(&home, &anvil, RICH).to_vec();
    let wallet = home.path("wallet");
    let v2 = include_str!("../../contracts/artifacts/PxV2.json");
    let contract = deploy(anvil.url(), &wallet, v2);
    let (price, units) = (U256::from(10).pow(U256::from(16)), U256::from(40));
    let call = |name: &str, words: Vec<u8>| [&keccak256(name)[..4], &words].concat();
    let (one, none) = (U256::ONE, U256::ZERO);
    let calls = [
        call(
            "addNewBandwidthPackage(uint256,uint256)",
            (price, units).abi_encode_params(),
        ),
        call(
            "addNewPackage(uint256,uint256,uint256)",
            (none, one, one).abi_encode_params(),
        ),
        call(
            "activateDeactivatePackage(uint256,uint256)",
            (one, none).abi_encode_params(),
        ),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let wallet = Wallet::open(&wallet, None).unwrap();
        let payer = Transactor::new(Endpoint::http(anvil.url()).unwrap(), &wallet);
        let to: Address = contract.parse().unwrap();
        for data in calls {
            let sent = payer.send(Some(to), data.into(), U256::ZERO, None).await;
            sent.unwrap();
        }
    });
    parts.push(format!("--contract={contract}"));
    ask(&home, &["mint", "--package", "0", "--yes"], &parts);
    let all = ask(&home, &["packages", "--uploads"], &parts);
    let offered = all
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["uploads"] == 40);
    let id = offered.unwrap()["id"].to_string();
    let line = home.refused(1, &with(&["upgrade", "1", "--uploads", &id], &parts));
    assert!(
        line.contains("40 upload units for token 1 for 0.01 coins")
            && line.contains(" gas, at most"),
        "{line}"
    );
    ask(&home, &["upgrade", "1", "--uploads", &id, "--yes"], &parts);
    let token = ask(&home, &["tokens"], &parts)[0].clone();
    assert_eq!(token["uploads_left"], json!(65));
    let unknown = ["upgrade", "1", "--uploads", "77", "--yes"];
    home.refused(5, &with(&unknown, &parts));
    let off_sale = ["upgrade", "1", "--package", "1", "--yes"];
    let line = home.refused(5, &with(&off_sale, &parts));
    assert!(line.contains("package 1 is off sale"), "{line}");

    // What it costs to use the token is told before it is used up.
    let doctor = |more: &[&str]| {
        let output = home.run(&with(&[&["doctor"], more].concat(), &parts));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = doctor(&[]);
    let month = "ok    a charge (one per published change) costs at most 0.00";
    assert!(told.contains(month), "{told}");
    let told = doctor(&["--max-fee", "0.0001"]);
    assert!(
        told.contains("unattended transactions may spend 0.0001 coins"),
        "{told}"
    );
}
