//! A chain over HTTP for the tests: anvil, of the npm packages that `tests/run setup` installs.
//!
//! Invariant: each [`Anvil`] is a process of its own on a port of its own, and ends with its value,
//! or with this process, however that ends. Shared, as a file, by the library's tests and the suites.

#[path = "keeper.rs"]
pub(crate) mod keeper;

use std::path::Path;

use keeper::Kept;

/// An anvil that runs: chain 31337, a block for each transaction.
#[derive(Debug)]
pub(crate) struct Anvil {
    url: String,
    _kept: Kept,
}

impl Anvil {
    /// Starts one, with more of anvil's options, and waits until it listens.
    pub(crate) fn start(options: &[&str]) -> Self {
        let program = program();
        assert!(
            Path::new(&program).exists(),
            "{program} is missing: run `tests/run setup`, or name it in PXFS_TEST_ANVIL"
        );
        let fixed: &[&str] = match options.contains(&"--port") {
            true => &["--host", "127.0.0.1"],
            false => &["--host", "127.0.0.1", "--port", "0"],
        };
        let (kept, mut lines) = Kept::start(&program, &[fixed, options].concat(), &[]);
        let listening = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.strip_prefix("Listening on ")?;
            Some(format!("http://{address}"))
        });
        // What it writes later must go somewhere, or it stops.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            url: listening.expect("anvil listens"),
            _kept: kept,
        }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// Where anvil is; `PXFS_TEST_ANVIL` names it where npm has none for the machine.
fn program() -> String {
    // A crate's tests have it above themselves.
    let mut folders = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let top = folders.find(|folder| folder.join("contracts").is_dir());
    let top = top.expect("the contracts").display();
    let installed = "contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil";
    std::env::var("PXFS_TEST_ANVIL").unwrap_or_else(|_| format!("{top}/{installed}"))
}
