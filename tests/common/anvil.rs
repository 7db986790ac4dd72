//! A chain over HTTP for the tests: anvil, of the npm packages that `tests/run setup` installs.
//!
//! Invariant: each [`Anvil`] is a process of its own on a port of its own, and ends with its value,
//! or with this process, however that ends. Shared, as a file, by the library's tests and the suites.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs its arguments beside itself until its own input ends, which it does with whoever holds the
/// other end.
const KEEPER: &str = r#""$@" </dev/null & cat >/dev/null; kill -KILL $!; wait"#;

/// An anvil that runs: chain 31337, a block for each transaction.
#[derive(Debug)]
pub(crate) struct Anvil {
    keeper: Child,
    url: String,
}

impl Anvil {
    /// Starts one, with more of anvil's options, and waits until it listens.
    pub(crate) fn start(options: &[&str]) -> Self {
        let program = program();
        assert!(
            Path::new(&program).exists(),
            "{program} is missing: run `tests/run setup`, or name it in PXFS_TEST_ANVIL"
        );
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "sh", &program])
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut lines = BufReader::new(keeper.stdout.take().expect("a pipe")).lines();
        let listening = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.strip_prefix("Listening on ")?;
            Some(format!("http://{address}"))
        });
        // What it writes later must go somewhere, or it stops.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            url: listening.expect("anvil listens"),
            keeper,
        }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It ends by itself; waiting leaves no zombie.
        let _ = self.keeper.wait();
    }
}

/// Where anvil is; `PXFS_TEST_ANVIL` names it where npm has none for the machine.
fn program() -> String {
    let top = env!("CARGO_MANIFEST_DIR");
    let installed = "contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil";
    std::env::var("PXFS_TEST_ANVIL").unwrap_or_else(|_| format!("{top}/{installed}"))
}
