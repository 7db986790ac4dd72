//! What users and operators pay: upper bounds of gas, so that a change that makes them dearer is seen.
//! The figures stand in contracts/README.md.

use alloy::primitives::U256;

use crate::world::*;

#[tokio::test]
async fn minting_syncing_and_reporting_cost_no_more_gas_than_documented() {
    let w = World::new().await;
    let mint = done(w.px.mint_0(U256::ZERO, KEY.to_owned()).from(w.alice)).await;
    let token = minted(&mint);
    let mut costs = vec![("mint", mint.gas_used, 245_000)];
    for (name, sequence, ask_most, answer_most) in
        [("first", 1, 60_000, 90_000), ("later", 2, 65_000, 52_000)]
    {
        w.advance(DAY).await;
        let asked = done(w.px.sync(token).from(w.alice)).await;
        costs.push((name, asked.gas_used, ask_most));
        let request = the::<PxSync::SyncRequested>(&asked).requestId;
        let report = w.answer(request, token, 1234, sequence, ROOT).await;
        costs.push((name, w.deliver(&report).await.gas_used, answer_most));
    }
    let register = done(w.px.register(token, OTHER_KEY.to_owned()).from(w.alice)).await;
    costs.push(("register", register.gas_used, 66_000));
    let dearer: Vec<_> = costs.iter().filter(|(_, used, most)| used > most).collect();
    assert!(dearer.is_empty(), "{dearer:?} of {costs:?}");
}
