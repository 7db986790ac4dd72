//! The commands against a daemon with a real mount: what a newcomer does, and what goes wrong.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A home with a state folder and a mountpoint; everything is ended and unmounted with it.
pub(super) struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn mountpoint(&self) -> PathBuf {
        self.path("px")
    }

    pub(super) fn token(&self, id: &str) -> PathBuf {
        self.mountpoint().join(id)
    }

    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pxfs"));
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .args(words);
        command
    }

    pub(super) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub(super) fn succeeds(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Unmounts. Programs that other tests start at this moment may hold for a moment what was open here.
    pub(super) fn leaves(&self, mountpoint: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let output = self.run(&["umount", mountpoint]);
            let error = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                return;
            }
            assert!(error.contains("busy") && Instant::now() < until, "{error}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn fails(&self, exit: i32, words: &[&str]) -> String {
        let output = self.run(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{words:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{words:?}: {error}");
        error
    }

    /// Starts `pxfs demo` and returns once it says that the drive is there.
    pub(super) fn demo(&self) -> Child {
        self.demo_with(&[])
    }

    pub(super) fn demo_with(&self, more: &[&str]) -> Child {
        self.start(&[&["demo", "px"][..], more].concat())
    }

    /// Starts a demo by these words, and returns once it says that the drive is there.
    pub(super) fn start(&self, words: &[&str]) -> Child {
        let log = fs::File::create(self.path("demo.err")).unwrap();
        let mut child = self
            .command(words)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("Ctrl-C")));
        assert!(
            said.is_some(),
            "{}",
            fs::read_to_string(self.path("demo.err")).unwrap()
        );
        child
    }

    fn state_dir(&self) -> PathBuf {
        self.path(".local/state/pxfs/demo")
    }

    /// Mounts the state of a demo again, in the background.
    fn mount(&self, more: &[&str]) {
        let state = format!("--state-dir={}", self.state_dir().display());
        let mut words = vec!["mount", "px", &state];
        words.extend(more);
        self.succeeds(&words);
    }

    pub(super) fn status(&self) -> Value {
        serde_json::from_str(&self.succeeds(&["status", "--json"])).unwrap()
    }

    fn state_of(&self, id: &str) -> Value {
        let status = self.status();
        let tokens = status["tokens"].as_array().unwrap();
        tokens.iter().find(|token| token["id"] == id).unwrap()["state"].clone()
    }

    fn daemon(&self) -> i32 {
        let lock = fs::read_to_string(self.state_dir().join("lock")).unwrap();
        lock.trim().parse().unwrap()
    }

    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([name, &self.daemon().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let wanted = format!(" {} ", self.mountpoint().display());
        mounts.contains(&wanted)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = self.run(&["umount", "--now", "px"]);
            let _ = Command::new("umount")
                .arg("-l")
                .arg(self.mountpoint())
                .output();
        }
    }
}

/// Waits for a process that is to end.
pub(super) fn ended(child: &mut Child) -> i32 {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The error of an attempt to make a file.
fn refusal(path: &Path) -> std::io::ErrorKind {
    // More than a small new file, which is admitted while a sync is overdue.
    fs::write(path, [b'x'; 20_000]).unwrap_err().kind()
}

#[test]
fn a_newcomer_gets_a_drive_from_one_command_and_finds_it_again() {
    let world = World::new();
    // Nothing is published before it is asked for.
    let mut demo = world.demo_with(&["--commit-idle=1h", "--commit-max=1h"]);
    fs::write(world.token("1").join("file"), "hello").unwrap();
    let status = world.status();
    assert_eq!(status["tokens"][0]["quota_bytes"], 104_857_600);
    assert_eq!(status["tokens"][0]["pending_files"], 1);
    world.succeeds(&["flush"]);
    let status = world.status();
    assert_eq!(status["tokens"][0]["pending_bytes"], 0);
    assert!(status["tokens"][0]["root"].is_string());
    assert!(world.succeeds(&["tokens"]).contains("100.0 MiB"));
    assert!(world.succeeds(&["packages"]).contains("5GB"));
    assert!(
        world
            .succeeds(&["doctor"])
            .lines()
            .all(|line| line.starts_with("ok"))
    );
    fs::write(world.token("1").join("late"), "published on the way out").unwrap();
    world.signal("-INT");
    assert_eq!(ended(&mut demo), 0);
    assert!(!world.is_mounted());

    let mut again = world.demo();
    assert_eq!(
        fs::read_to_string(world.token("1").join("file")).unwrap(),
        "hello"
    );
    assert!(world.token("1").join("late").exists());
    assert_eq!(world.status()["tokens"].as_array().unwrap().len(), 1);
    world.leaves("px");
    assert_eq!(ended(&mut again), 0);
}

#[test]
fn an_overdue_token_stops_growing_until_it_is_synced() {
    let world = World::new();
    let mut demo = world.demo();
    let file = world.token("1").join("file");
    fs::write(&file, "before").unwrap();
    world.succeeds(&["dev", "advance", "31d"]);
    assert_eq!(world.state_of("1"), "overdue");
    let refused = refusal(&world.token("1").join("new"));
    assert_eq!(refused, std::io::ErrorKind::PermissionDenied);
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");

    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
    world.mount(&[]);
    let refused = refusal(&world.token("1").join("new"));
    assert_eq!(refused, std::io::ErrorKind::PermissionDenied);

    let answer: Value =
        serde_json::from_str(&world.succeeds(&["sync", "1", "--yes", "--json"])).unwrap();
    assert_eq!(answer["token"], "1");
    assert!(answer["usage"].is_u64() && answer["sequence"].is_u64());
    fs::write(world.token("1").join("new"), "x").unwrap();
    assert_eq!(world.state_of("1"), "ok");
    world.leaves("px");
}

#[test]
fn a_token_minted_while_mounted_is_there_when_the_command_returns() {
    let world = World::new();
    let mut demo = world.demo();
    assert!(!world.token("2").exists());
    let answer = world.succeeds(&["mint", "--package", "1", "--yes", "--json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["token"], "2");
    fs::write(world.token("2").join("file"), "x").unwrap();
    let line = world.fails(5, &["mint", "--package", "77", "--yes"]);
    assert!(line.contains("77"), "{line}");
    world.fails(5, &["sync", "99", "--yes"]);
    let call = world.succeeds(&["mint", "--package", "1", "--print", "--json"]);
    assert!(call.contains("0x"), "{call}");
    assert!(!world.token("3").exists());
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
}

#[test]
fn a_command_for_another_chain_contract_or_wallet_spends_nothing() {
    let world = World::new();
    let mut demo = world.demo();
    let status = world.status();
    let wallet = world.path("other");
    fs::write(
        &wallet,
        "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318\n",
    )
    .unwrap();
    fs::set_permissions(&wallet, fs::Permissions::from_mode(0o600)).unwrap();
    let wallet = format!("--wallet={}", wallet.display());
    let contract = format!("--contract=0x{}", "11".repeat(20));
    for (exit, flag) in [
        (3, "--chain-id=5"),
        (3, "--rpc-url=http://127.0.0.1:9"),
        (2, contract.as_str()),
        (2, wallet.as_str()),
    ] {
        for words in [
            &["mint", "--package", "1", "--yes"][..],
            &["sync", "1", "--yes"],
            &["register", "1", "--new-volume", "--yes"],
            &["dev", "call", "0x"],
        ] {
            let line = world.fails(exit, &[words, &[flag]].concat());
            let name = flag.split('=').next().unwrap();
            assert!(
                line.contains(name) && line.contains("--state-dir"),
                "{line}"
            );
        }
    }
    let output = (world.command(&["mint", "--package", "1", "--yes"]))
        .env("PXFS_CHAIN_ID", "5")
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(3),
        "a variable counts as its flag"
    );
    // What agrees is done, and the command's cap is the one that counts.
    let chain = format!("--chain-id={}", status["chain"]["id"]);
    let contract = status["tokens"][0]["contract"].as_str().unwrap();
    let contract = format!("--contract={contract}");
    let mint = ["mint", "--package", "1", "--yes", &chain, &contract];
    let capped = [&mint[..], &["--max-fee=0.000000000000000001"]].concat();
    let line = world.fails(6, &capped);
    assert!(line.contains("--max-fee allows"), "{line}");
    assert!(!world.token("2").exists());
    world.succeeds(&mint);
    assert!(world.token("2").exists());
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
}

#[test]
fn a_node_that_hangs_keeps_nobody_waiting_and_loses_nothing() {
    let world = World::new();
    let mut demo = world.demo();
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
    let fault = world.path("fault");
    fs::write(&fault, "").unwrap();
    let flag = format!("--fault={}", fault.display());
    world.mount(&[&flag, "--read-timeout=2s"]);
    let until = Instant::now() + PATIENCE;
    // By so short a timeout a slow machine may give up while all is well.
    while !world.run(&["flush"]).status.success() {
        assert!(Instant::now() < until, "it is never published");
    }
    fs::write(&fault, "all hang").unwrap();
    // The fault is in force once the watch over the node's health, or a flush, runs into it.
    let kept = world.token("1").join("kept");
    let until = Instant::now() + PATIENCE;
    loop {
        fs::write(&kept, "kept").unwrap();
        if world.run(&["flush"]).status.code() == Some(7) {
            break;
        }
        assert!(Instant::now() < until, "the node never hung");
    }
    let line = world.fails(7, &["umount", "px"]);
    assert!(line.contains("kept"), "{line}");
    assert!(!world.is_mounted());
    world.mount(&[]);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    world.succeeds(&["flush"]);
    world.leaves("px");
}

#[test]
fn what_a_killed_daemon_left_is_taken_away_by_the_next_mount() {
    let world = World::new();
    let mut demo = world.demo();
    let file = world.token("1").join("file");
    fs::write(&file, "kept").unwrap();
    fs::File::open(&file).unwrap().sync_all().unwrap();
    demo.kill().unwrap();
    ended(&mut demo);
    world.fails(10, &["status"]);
    world.mount(&[]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    world.signal("-KILL");
    let until = Instant::now() + PATIENCE;
    while fs::read_dir(world.mountpoint()).is_ok() {
        assert!(Instant::now() < until, "the daemon does not die");
    }
    world.leaves("px");
    assert!(!world.is_mounted());
}

#[test]
fn a_drive_in_use_is_not_unmounted_and_goes_on() {
    let world = World::new();
    let mut demo = world.demo();
    let path = world.token("1").join("file");
    fs::write(&path, "x").unwrap();
    let open = fs::File::open(&path).unwrap();
    let line = world.fails(1, &["umount", "px"]);
    assert!(line.contains("busy"), "{line}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "x");
    let mountpoint = world.mountpoint();
    let line = world.fails(
        10,
        &["mount", mountpoint.to_str().unwrap(), "--volume", "plain"],
    );
    assert!(line.contains("already mounted"), "{line}");
    drop(open);
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
}

#[test]
fn a_damaged_journal_is_refused_in_one_line_and_left_unchanged() {
    let world = World::new();
    let mut demo = world.demo();
    fs::write(world.token("1").join("file"), "x").unwrap();
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
    let volumes = world.state_dir().join("volumes");
    let volume = fs::read_dir(volumes).unwrap().next().unwrap().unwrap();
    let journal = volume.path().join("journal.redb");
    fs::write(&journal, "no journal").unwrap();
    let state = format!("--state-dir={}", world.state_dir().display());
    let line = world.fails(9, &["mount", "px", &state]);
    assert!(
        line.contains("token 1") && line.contains("damaged"),
        "{line}"
    );
    assert_eq!(fs::read_to_string(&journal).unwrap(), "no journal");
    assert!(!world.is_mounted());
}

#[test]
fn a_read_only_drive_takes_nothing_and_says_why() {
    let world = World::new();
    let mut demo = world.demo();
    fs::write(world.token("1").join("file"), "x").unwrap();
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
    world.mount(&["-o", "ro"]);
    let refused = refusal(&world.token("1").join("new"));
    assert_eq!(refused, std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(
        fs::read_to_string(world.token("1").join("file")).unwrap(),
        "x"
    );
    assert_eq!(world.state_of("1"), "read-only");
    world.leaves("px");
}

#[test]
fn a_second_signal_leaves_at_once_and_keeps_what_is_pending() {
    let world = World::new();
    let mut demo = world.demo();
    world.leaves("px");
    assert_eq!(ended(&mut demo), 0);
    let fault = world.path("fault");
    fs::write(&fault, "all hang").unwrap();
    let state = format!("--state-dir={}", world.state_dir().display());
    let flag = format!("--fault={}", fault.display());
    let mut held = world
        .command(&["mount", "-f", "px", &state, &flag, "--read-timeout=1h"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    while !world.run(&["status"]).status.success() {
        assert!(Instant::now() < until, "it does not mount");
    }
    fs::write(world.token("1").join("kept"), "kept").unwrap();
    world.signal("-TERM");
    // The first is taken, and waits for a node that hangs: only another ends it.
    let begun = Instant::now();
    while held.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "it does not leave");
        let _ = Command::new("kill")
            .args(["-TERM", &held.id().to_string()])
            .output();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ended(&mut held), 7);
    assert!(!world.is_mounted());
    world.mount(&[]);
    assert_eq!(
        fs::read_to_string(world.token("1").join("kept")).unwrap(),
        "kept"
    );
    world.leaves("px");
}
