//! A mount while the chain does not answer.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::World;
use crate::billing;
use crate::chain::ChainError;
use crate::chain::endpoint::Endpoint;
use crate::chain::ledger::ContractLedger;
use crate::chain::transact::Transactor;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::contracts::Parts;
use crate::fs::FsError;
use crate::status::State;

/// More than the minted package.
const MORE_BYTES: u64 = 1 << 40;

/// From now on nobody answers for the chain.
fn fall_silent(parts: &mut Parts) {
    let away = Endpoint::http("http://127.0.0.1:1").unwrap();
    let chain = &mut parts.chain;
    chain.silence = Some(ChainError::Transient("away".to_owned()));
    chain.ledger = ContractLedger::new(away.clone(), chain.contract, chain.owner);
    if let Some(account) = &mut chain.account {
        let wallet = account.wallet.as_ref().unwrap();
        account.transactor = Transactor::new(away.clone(), wallet);
    }
    chain.endpoint = away;
}

/// Makes the stored list claim a larger token, synced later.
fn promise_more(folder: &Path) {
    let file = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    let bytes = fs::read(file.path()).unwrap();
    let mut list: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let token = &mut list["snapshot"]["tokens"][0];
    let later = token["last_sync_s"].as_u64().unwrap() + 365 * 86_400;
    (token["size_bytes"], token["last_sync_s"]) = (MORE_BYTES.into(), later.into());
    fs::write(file.path(), list.to_string()).unwrap();
}

#[tokio::test]
async fn without_the_chain_a_drive_grows_until_the_deadline_that_is_known() {
    // As over HTTP: an in-process chain always answers, and nothing is stored of it.
    let mut inside = None;
    let outside = |parts: &mut Parts| inside = parts.chain.embedded.take();
    let world = World::begin_with(tempfile::tempdir().unwrap(), outside).await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    assert_eq!(world.look(token).await.state, State::Ok);
    world.write("1", "before", b"precious").unwrap();
    let dir = world.end_with(inside).await;
    promise_more(&dir.path().join("state/known"));

    let clock = Arc::new(ManualClock::at(SystemClock.wall_ns()));
    let mut inside = None;
    let world = World::begin_with(dir, |parts| {
        parts.clock = Arc::<ManualClock>::clone(&clock) as _;
        inside = parts.chain.embedded.take();
        fall_silent(parts);
    })
    .await;
    // This process has seen nothing of the chain.
    assert_eq!(world.look(token).await.state, State::Ok);
    let told = world.tokens.chain_status();
    assert!(!told.ok && told.block > 0, "{told:?}");
    world.write("1", "after", b"more").unwrap();
    let room = world.volume().with_quota(|quota| quota.room_bytes());
    assert!(room < 100 << 20, "a list grants nothing: {room}");
    clock.advance(Duration::from_secs(31 * 86_400));
    // More than a backup's lock.
    let large = vec![1; 1 << 20];
    assert_eq!(world.write("1", "late", &large), Err(FsError::Overdue));
    assert_eq!(world.look(token).await.state, State::Overdue);
    let age_s = world.tokens.chain_status().age_s;
    assert!(age_s >= 31 * 86_400, "{age_s}");
    drop(world.end_with(inside).await);
}
