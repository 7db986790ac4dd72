//! A drive whose chain announces changes over a WebSocket.

use std::path::Path;
use std::time::Duration;

use crate::command::wait_until;
use crate::contract::{Chain, Kind};
use crate::harness::Machine;
use crate::line::Line;

const SOON: Duration = Duration::from_secs(120);

/// Waits until the socket of the daemon's run number `run` is open.
fn hears(machine: &Machine, run: usize) {
    wait_until("the socket is open", SOON, || {
        machine.log().matches("announces changes").count() == run
    });
}

/// Mints another token, which is `dir`, and waits for it.
fn mint(chain: &Chain, dir: &Path) {
    assert!(!dir.exists());
    chain.mint(chain.larger_package());
    wait_until("a new token comes", SOON, || dir.is_dir());
}

#[test]
fn new_tokens_appear_by_websocket_and_by_polling_once_it_breaks() {
    let chain = Chain::new(Kind::Sync);
    let line = Line::to(chain.url());
    // The drive polls seldom enough that only an announcement shows a change while the test runs.
    let args = ["--rpc-url", &line.url("ws"), "--refresh", "1h"];
    let mut machine = chain.machine_with(None, &args);
    machine.set_env("PXFS_LOG", "info,pxfs_chain=debug");
    machine.start();
    machine.ask(&["register", "1", "--yes"]).ok();
    machine.wait_for("1", "state", "ok");
    hears(&machine, 1);
    let place = machine.mountpoint();
    mint(&chain, &place.join("2"));
    chain.give_away();
    machine.wait_for("1", "state", "read-only");
    machine.stop();

    machine.replace_arg("--refresh", "--refresh", "1s");
    machine.start_without_token();
    hears(&machine, 2);
    line.cut();
    wait_until("the drive notices", SOON, || {
        machine.log().contains("the chain is polled until")
    });
    // A check that the socket asked for before it broke may find the first, but not the second.
    for token in ["3", "4"] {
        mint(&chain, &place.join(token));
    }
    machine.stop();
}
