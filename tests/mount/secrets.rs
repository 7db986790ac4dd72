//! The wallet's key stands in nothing that the daemon of a mount says or keeps.

use std::fs;

use rustix::process::Signal;

use crate::command::wait_until;
use crate::contract::{Chain, Kind, RICH};
use crate::harness::Machine;
use crate::samples::pattern;
use crate::secret::{FORMS, LEVELS, assert_nowhere, files_below};

/// Bytes of a file that is written.
const BYTES: usize = 300_000;

#[test]
fn a_mounts_logs_answers_and_files_never_contain_its_wallet_key() {
    let chain = Chain::new(Kind::Sync);
    let mut machine = chain.machine(None);
    let wallet = machine.scratch().join("wallet");
    machine.start_without_token();
    machine.ask(&["register", "1", "--yes"]).ok();
    machine.stop();
    let mut said = Vec::new();
    for (place, level) in LEVELS.into_iter().enumerate() {
        for form in FORMS {
            // The key is in a variable the second time, which has to be asked for.
            let from = match form {
                "text" => wallet.display().to_string(),
                _ => "env:PX_KEY".to_owned(),
            };
            machine.replace_arg("--wallet", "--wallet", &from);
            machine.set_env("PX_KEY", RICH);
            machine.set_env("PXFS_LOG", level);
            machine.set_env("PXFS_LOG_FORMAT", form);
            machine.start();
            said.extend(use_it(&machine, place as u64));
            machine.stop();
        }
    }
    assert!(machine.log().contains("TRACE"), "it says all that there is");
    said.extend(files_below(machine.folder(), &wallet));
    assert_nowhere(RICH, &said);
}

/// Writes, publishes, sends, and has the daemon tell all that it can; what it said.
fn use_it(machine: &Machine, seed: u64) -> Vec<Vec<u8>> {
    let state = || machine.token("1")["state"].clone();
    wait_until(
        "it can be written",
        std::time::Duration::from_secs(30),
        || state() != "read-only",
    );
    fs::write(machine.dir().join("file"), pattern(seed, 0, BYTES)).expect("written");
    machine.flush();
    machine.signal(Signal::USR1);
    let mut said = Vec::new();
    for words in [
        &["status", "--json"][..],
        &["tokens", "--json"],
        &["packages"],
        &["sync", "1", "--yes", "--no-wait"],
        &["fsck", "1"],
        // Refused.
        &["sync", "77", "--yes"],
        &["register", "1", "--yes"],
        &["detach", "1", "--discard", "--yes"],
    ] {
        let answer = machine.ask(words);
        said.extend([answer.stdout.into_bytes(), answer.stderr.into_bytes()]);
    }
    said
}
