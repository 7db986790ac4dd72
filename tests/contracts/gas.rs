//! What users and operators pay: the figures of contracts/README.md, so that a change that makes anything dearer is seen.

use alloy::primitives::U256;
use alloy::rpc::types::TransactionReceipt;

use crate::world::fwd::OracleForwarder;
use crate::world::*;

const README: &str = include_str!("../../contracts/README.md");
/// Addresses differ from run to run, and their bytes of zero are cheaper.
const TOLERANCE_PERCENT: u64 = 1;

/// What the table says of a transaction.
fn documented(transaction: &str) -> u64 {
    let start = format!("| {transaction} | ");
    let row = README.lines().find_map(|line| line.strip_prefix(&start));
    let row = row.unwrap_or_else(|| panic!("no row `{transaction}`"));
    let digits: String = row.split('|').next().expect("a figure").replace(',', "");
    digits.trim().parse().expect("a figure")
}

#[tokio::test]
async fn every_transaction_costs_the_gas_that_the_readme_says() {
    let w = World::new().await;
    let mut costs: Vec<(&str, u64)> = Vec::new();
    let mut note = |what, receipt: &TransactionReceipt| costs.push((what, receipt.gas_used));
    let provider = w.chain.provider.clone();
    let made = PxSync::deploy_builder(provider.clone(), w.owner, w.oracle).from(w.owner);
    note("deploy `PxSync`", &done(made).await);
    let operators = vec![w.oracle];
    let made = OracleForwarder::deploy_builder(provider, w.owner, operators, U256::ONE);
    note(
        "deploy `OracleForwarder`, one operator",
        &done(made.from(w.owner)).await,
    );
    let mint = done(w.px.mint_0(U256::ZERO, KEY.to_owned()).from(w.alice)).await;
    note("`mint` with a key", &mint);
    let token = minted(&mint);
    for (asked, answered, sequence) in [
        ("`sync`, a token's first", "`onReport`, a token's first", 1),
        ("`sync`, later", "`onReport`, later", 2),
    ] {
        w.advance(DAY).await;
        let sync = done(w.px.sync(token).from(w.alice)).await;
        note(asked, &sync);
        let request = the::<PxSync::SyncRequested>(&sync).requestId;
        let report = w.answer(request, token, 1234, sequence, ROOT).await;
        note(answered, &w.deliver(&report).await);
    }
    w.advance(DAY).await;
    let request = w.request(w.alice, token).await;
    let failed = w.failed(request, token, 1).await;
    note("`onReport`, a failure", &w.deliver(&failed).await);
    let register = done(w.px.register(token, OTHER_KEY.to_owned()).from(w.alice)).await;
    note("`register`", &register);
    let wrong: Vec<_> = costs
        .iter()
        .map(|(what, used)| (*what, *used, documented(what)))
        .filter(|(_, used, said)| used.abs_diff(*said) * 100 > said * TOLERANCE_PERCENT)
        .collect();
    assert!(
        wrong.is_empty(),
        "(what, used, documented) {wrong:?} of {costs:?}"
    );
}
