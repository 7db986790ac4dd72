//! `pxfs sync` on a chain over HTTP: its price first, what it waits for, what it cost, and how deep it lies.

use std::process::Command;

use alloy::primitives::{U256, keccak256};
use pxfs::chain::endpoint::Endpoint;
use serde_json::Value;

use crate::Home;
use crate::anvil::Anvil;
use crate::deploy::{RICH, parts, with};

/// Runs a program on a terminal that answers `y`; what it shows, and its exit code behind.
const ON_A_TERMINAL: &str = r#"
import fcntl, os, pty, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 250, 0, 0))
os.write(fd, b"y\n")
shown = b""
while True:
    try:
        part = os.read(fd, 4096)
    except OSError:
        break
    if not part:
        break
    shown += part
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// A token on a contract of this wallet's own, and nothing mounted.
struct World {
    home: Home,
    anvil: Anvil,
    parts: Vec<String>,
}

impl World {
    fn new(options: &[&str]) -> Self {
        let (home, anvil) = (Home::new(), Anvil::start(options));
        let mut world = Self {
            parts: parts(&home, &anvil, RICH).to_vec(),
            home,
            anvil,
        };
        let made = world.ask(&["deploy", "--yes"]);
        let contract = made["contract"].as_str().unwrap();
        world.parts.push(format!("--contract={contract}"));
        world
    }

    fn ask(&self, words: &[&str]) -> Value {
        let output = self
            .home
            .run(&with(&[words, &["--json"]].concat(), &self.parts));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {told}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refused(&self, words: &[&str]) -> String {
        self.home.refused(1, &with(words, &self.parts))
    }

    fn height(&self) -> u64 {
        let endpoint = Endpoint::http(self.anvil.url()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(endpoint.height()).unwrap()
    }
}

fn wei(answer: &Value) -> U256 {
    answer["paid_wei"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_sync_asks_with_its_price_and_pays_its_fee_once() {
    let world = World::new(&[]);
    let minted = world.ask(&["mint", "--package", "1", "--yes"]);
    let tenth = U256::from(10).pow(U256::from(17));
    assert!(
        wei(&minted) > tenth && wei(&minted) < tenth * U256::from(2),
        "{minted}"
    );
    let fee = U256::from(10).pow(U256::from(16));
    let call = [
        &keccak256("setSyncFee(uint256)")[..4],
        &fee.to_be_bytes::<32>(),
    ]
    .concat();
    let call = format!("0x{}", alloy::primitives::hex::encode(call));
    world.ask(&["dev", "call", &call]);
    // In force a week later.
    world.ask(&["dev", "advance", "8d"]);

    // Nobody is there to be asked: what would be asked stands in the line.
    let before = world.height();
    let line = world.refused(&["sync", "1"]);
    for words in [
        "Sync token 1 for 0.01 coins",
        " gas, at most 0.0",
        "chain 31337",
        "--yes",
    ] {
        assert!(line.contains(words), "{words}: {line}");
    }
    let call = world.ask(&["sync", "1", "--print"]);
    assert_eq!(call["value_wei"], fee.to_string());
    assert_eq!(world.height(), before, "something was sent");

    let asked = world.ask(&["sync", "1", "--yes", "--no-wait"]);
    assert!(wei(&asked) > fee, "{asked}");
    // It is open: nothing is asked, and nothing is paid.
    let again = world.ask(&["sync", "1", "--no-wait"]);
    assert_eq!(again["request"], asked["request"]);
    assert!(again["paid_wei"].is_null(), "{again}");

    // Nobody has answered: the fee is paid all the same.
    world.ask(&["dev", "advance", "6m"]);
    let line = world.refused(&["sync", "1"]);
    assert!(
        line.contains("costs gas alone") && line.contains("for 0 coins"),
        "{line}"
    );
    let anew = world.ask(&["sync", "1", "--yes", "--no-wait"]);
    assert_ne!(anew["request"], asked["request"]);
    assert!(wei(&anew) > U256::ZERO && wei(&anew) < fee, "{anew}");
}

#[test]
fn who_waits_for_a_sync_sees_for_what_and_what_it_cost() {
    let world = World::new(&[]);
    world.ask(&["mint", "--package", "0", "--yes"]);
    let program = env!("CARGO_BIN_EXE_pxfs");
    let words = with(&["sync", "1", "--operate", "--refresh=1s"], &world.parts);
    let shown = Command::new("python3")
        .args(["-c", ON_A_TERMINAL, program])
        .args(words)
        .env("HOME", world.home.path(""))
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success(), "{text}");
    for words in [
        "Sync token 1 for 0 coins and ",
        "Go on? [y/N]",
        "; waiting for the oracle, 0:0",
        " of 5:00; Ctrl-C is safe",
        "token 1 is synced",
        "paid 0.0",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn a_command_says_done_when_so_many_blocks_lie_on_top() {
    let world = World::new(&["--block-time", "1"]);
    let before = world.height();
    world.ask(&["mint", "--package", "0", "--yes", "--confirmations", "3"]);
    let minted = world.height();
    assert!(minted >= before + 4, "{before}, {minted}");
    let sync = ["sync", "1", "--yes", "--operate", "--refresh=1s"];
    world.ask(&[&sync[..], &["--confirmations=3"]].concat());
    // The request with three on top, the report behind it, and three more.
    let synced = world.height();
    assert!(synced >= minted + 5, "{minted}, {synced}");
}
