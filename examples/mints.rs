//! Mints of many tokens at once, as `benches/idle` sends them to a development chain that signs for its own accounts: one
//! batch of JSON-RPC requests a line, each with the name key that pxfs would have derived.
//!
//!   cargo run --example mints -- WALLET CHAIN-ID CONTRACT PACKAGE PRICE-WEI NONCE COUNT

use std::path::Path;

use alloy::primitives::{Address, U256};
use pxfs::chain::transact::mint_calldata;
use pxfs::chain::wallet::Wallet;
use pxfs::names::key::NameKey;
use serde_json::{Value, json};

/// Requests a batch.
const BATCH: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [wallet, chain_id, contract, package, price, nonce, count] = args.as_slice() else {
        return Err("mints WALLET CHAIN-ID CONTRACT PACKAGE PRICE-WEI NONCE COUNT".into());
    };
    let wallet = Wallet::open(Path::new(wallet), None)?;
    let (chain_id, contract) = (chain_id.parse()?, contract.parse::<Address>()?);
    let (package, price) = (package.parse()?, price.parse::<U256>()?);
    let (first, count): (u64, u64) = (nonce.parse()?, count.parse()?);
    let mint = |nonce: u64| -> Value {
        let name = NameKey::derive(wallet.secret(), chain_id, &contract, nonce).name();
        json!({"jsonrpc": "2.0", "id": nonce, "method": "eth_sendTransaction", "params": [{
            "from": wallet.address(),
            "to": contract,
            "nonce": format!("{nonce:#x}"),
            "gas": "0x200000",
            "value": format!("{price:#x}"),
            "data": mint_calldata(package, &name),
        }]})
    };
    let mints: Vec<Value> = (first..first + count).map(mint).collect();
    for batch in mints.chunks(BATCH) {
        println!("{}", serde_json::to_string(batch)?);
    }
    Ok(())
}
