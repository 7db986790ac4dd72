//! A fresh state folder, a moment after another one published.

use std::time::Duration;

use super::*;
use crate::clock::{ManualClock, SystemClock};

/// Waits for a state that a later pass brings.
async fn wait_for(world: &World, token: TokenId, state: State) -> TokenStatus {
    let reached = async {
        loop {
            let status = world.look(token).await;
            if status.state == state {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(60), reached).await;
    reached.unwrap_or_else(|_| panic!("never {state:?}"))
}

/// Writes to a directory that may not be known here yet.
async fn write(world: &World) -> Result<(), FsError> {
    loop {
        match world.write("1", "mine", b"mine") {
            Err(FsError::NotLocal(want)) => world.ground.fetcher.fetch(*want).await?,
            other => return other,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_that_waits_for_another_machine_becomes_writable_by_itself() {
    let world = World::new().await;
    let token = billing::mint(&world.parts, 0).await.unwrap().token;
    world.look(token).await;
    world.write("1", "theirs", b"theirs").unwrap();
    world.tokens.all().remove(0).flush().await.unwrap();
    let volumes = world.ground.state_dir.path().join("volumes");
    let dir = world.end().await;
    std::fs::rename(&volumes, dir.path().join("of-another-machine")).unwrap();

    let clock = Arc::new(ManualClock::at(SystemClock.wall_ns()));
    let world = World::begin_at(dir, Some(clock.clone())).await;
    let status = world.look(token).await;
    assert_eq!(status.state, State::ReadOnly);
    assert!(
        status.root.is_some() && status.sequence.is_some(),
        "{status:?}"
    );
    let dir = world.end().await;

    let world = World::begin_at(dir, Some(clock.clone())).await;
    let status = world.look(token).await;
    assert_eq!(status.state, State::ReadOnly);
    assert!(status.reason.unwrap().contains("--take-over"));
    let refused = write(&world).await;
    assert!(matches!(refused, Err(FsError::ReadOnly(_))), "{refused:?}");
    clock.advance(Duration::from_secs(600));
    wait_for(&world, token, State::Ok).await;
    write(&world).await.unwrap();
    // After another machine's commit a flush resolves the name again a moment later.
    let live = world.tokens.all().remove(0);
    let passes = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            clock.advance(Duration::from_secs(1));
        }
    };
    tokio::select! {
        flushed = live.flush() => flushed.unwrap(),
        () = passes => {}
    }
    drop(live);
    world.end().await;
}
