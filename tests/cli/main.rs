//! The command line. In `drive`: against a real mount. Here: every error that needs no daemon: one clear line, the right exit code, nothing lost, and with
//! `--json` one object on stderr and an empty stdout. And what a command without a daemon does.

#[path = "../common/anvil.rs"]
mod anvil;
#[allow(dead_code, reason = "shared with the suite of nodes")]
#[path = "../nodes/btfs/mod.rs"]
mod btfs;
mod deploy;
mod docs;
mod drive;
mod drives;
mod older;
mod oracle;
#[path = "../common/secret.rs"]
mod secret;
mod sync;
mod upgrade;
mod watch;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

/// A home of its own for each test.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An empty directory.
    fn mountpoint(&self) -> PathBuf {
        let path = self.path("mnt");
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::cargo_bin("pxfs").unwrap();
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .current_dir(self.dir.path())
            .args(words)
            .timeout(std::time::Duration::from_secs(60));
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs what must be refused, and gives its line.
    fn refused(&self, exit: i32, words: &[&str]) -> String {
        let output = self.run(words);
        let line = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{words:?}: {line}");
        assert!(output.stdout.is_empty(), "{words:?} answered on stdout");
        assert_eq!(line.lines().count(), 1, "{words:?}: {line}");
        assert!(line.starts_with("pxfs: "), "{words:?}: {line}");
        line
    }

    /// A configuration whose parts are embedded, in this home; nothing is made yet.
    fn embedded(&self) -> [String; 3] {
        let at = |name: &str| self.path(name).display().to_string();
        [
            format!("--rpc-url=embedded:{}", at("chain")),
            format!("--node=embedded={}", at("node")),
            "--volume=plain".to_owned(),
        ]
    }
}

fn mount_words<'a>(mountpoint: &'a Path, parts: &'a [String]) -> Vec<&'a str> {
    let mut words = vec!["mount", "-f", mountpoint.to_str().unwrap()];
    words.extend(parts.iter().map(String::as_str));
    words
}

fn write_wallet(path: &Path, mode: u32) {
    fs::write(
        path,
        "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318\n",
    )
    .unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_word_that_is_not_understood_is_named() {
    let home = Home::new();
    assert!(home.refused(2, &["unmount", "/m"]).contains("unmount"));
    assert!(home.refused(2, &["status", "--jsn"]).contains("--jsn"));
    assert!(home.refused(2, &["mint"]).contains("--package"));
    home.refused(2, &["sync", "first"]);
    home.refused(2, &["dev", "advance", "tomorrow"]);
}

#[test]
fn a_line_that_stops_before_a_command_prints_help() {
    let home = Home::new();
    for (words, wanted) in [
        (&[][..], "umount"),
        (&["dev"], "advance"),
        (&["help"], "umount"),
        (&["help", "mint"], "--package"),
    ] {
        let output = home.run(words);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(output.stderr.is_empty(), "{words:?}");
        assert!(shown.contains(wanted), "{words:?}: {shown}");
        assert!(shown.lines().count() > 5, "{words:?}: {shown}");
    }
}

#[test]
fn an_error_in_json_is_one_object_and_stdout_stays_empty() {
    let home = Home::new();
    for (exit, words) in [
        (10, vec!["--json", "status"]),
        (2, vec!["tokens", "--json"]),
        (2, vec!["--json", "no-such-command"]),
    ] {
        let output = home.run(&words);
        assert_eq!(output.status.code(), Some(exit), "{words:?}");
        assert!(output.stdout.is_empty());
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["exit"], exit);
        assert!(error["error"].is_string());
    }
}

#[test]
fn without_a_drive_status_flush_and_umount_say_so() {
    let home = Home::new();
    let mountpoint = home.mountpoint();
    let mountpoint = mountpoint.to_str().unwrap();
    assert!(home.refused(10, &["status"]).contains("nothing is mounted"));
    assert!(
        home.refused(10, &["status", mountpoint])
            .contains(mountpoint)
    );
    home.refused(10, &["flush"]);
    home.refused(10, &["flush", mountpoint]);
    assert!(
        home.refused(10, &["umount", mountpoint])
            .contains(mountpoint)
    );
}

#[test]
fn a_mountpoint_that_cannot_be_one_is_refused_before_anything_is_made() {
    let home = Home::new();
    let parts = home.embedded();
    let missing = home.path("missing");
    let line = home.refused(2, &mount_words(&missing, &parts));
    assert!(line.contains("does not exist"), "{line}");

    let file = home.path("file");
    fs::write(&file, "precious").unwrap();
    let line = home.refused(2, &mount_words(&file, &parts));
    assert!(line.contains("not a directory"), "{line}");

    let full = home.path("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("precious"), "x").unwrap();
    let line = home.refused(2, &mount_words(&full, &parts));
    assert!(line.contains("not empty"), "{line}");

    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(full.join("precious").exists());
    assert!(!home.path("chain").exists() && !home.path("node").exists());
}

#[test]
fn a_wallet_that_others_may_read_is_refused() {
    let home = Home::new();
    let wallet = home.path("wallet");
    write_wallet(&wallet, 0o644);
    let parts = home.embedded();
    let mountpoint = home.mountpoint();
    let mut words = mount_words(&mountpoint, &parts);
    let flag = format!("--wallet={}", wallet.display());
    words.push(&flag);
    let line = home.refused(2, &words);
    assert!(line.contains("chmod 600"), "{line}");
}

#[test]
fn a_wallet_that_is_missing_or_no_wallet_is_refused() {
    let home = Home::new();
    let mountpoint = home.mountpoint();
    let parts = home.embedded();
    let words = mount_words(&mountpoint, &parts);
    assert!(home.refused(2, &words).contains("does not exist"));
    let wallet = home.path(".local/state/pxfs/wallet");
    fs::write(&wallet, "not a key").unwrap();
    fs::set_permissions(&wallet, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(home.refused(2, &words).contains("64 hex digits"));
}

#[test]
fn a_broken_configuration_gives_one_line_naming_the_place() {
    let home = Home::new();
    let config = home.path(".config/pxfs/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    for (text, wanted) in [
        ("volume = \"pla", "line 1"),
        ("volume = \"plain\"\nstate-dri = \"/x\"\n", "state-dri"),
        ("chain-id = \"one\"\n", "line 1"),
        ("\u{0}\u{1}", "line 1"),
    ] {
        fs::write(&config, text).unwrap();
        let line = home.refused(2, &["status"]);
        assert!(line.contains(wanted), "{line}");
    }
    fs::remove_file(&config).unwrap();
    let line = home.refused(2, &["status", "--config", "/no/such.toml"]);
    assert!(line.contains("/no/such.toml"), "{line}");
}

#[test]
fn a_variable_counts_as_its_flag_and_a_flag_beats_it() {
    let home = Home::new();
    let run = |words: &[&str]| {
        let output = home
            .command(words)
            .env("PXFS_STATE_DIR", "/from/variable")
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(&["status"]).contains("/from/variable"));
    assert!(run(&["status", "--state-dir", "/from/flag"]).contains("/from/flag"));
    let output = home
        .command(&["status"])
        .env("PXFS_COMMIT_IDLE", "soon")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("PXFS_COMMIT_IDLE"));
}

#[test]
fn a_state_folder_of_another_process_is_refused_and_left_alone() {
    let home = Home::new();
    let state = home.path("state");
    fs::create_dir(&state).unwrap();
    let lock = fs::File::create(state.join("lock")).unwrap();
    lock.lock().unwrap();
    let parts = home.embedded();
    let mountpoint = home.mountpoint();
    let mut words = mount_words(&mountpoint, &parts);
    let flag = format!("--state-dir={}", state.display());
    words.push(&flag);
    let line = home.refused(11, &words);
    assert!(line.contains("owns the state folder"), "{line}");
    let line = home.refused(11, &["tokens", &flag]);
    assert!(line.contains(state.to_str().unwrap()), "{line}");
}

#[test]
fn what_this_version_cannot_do_is_refused_in_one_line() {
    let home = Home::new();
    let mountpoint = home.mountpoint();
    let mnt = mountpoint.to_str().unwrap();
    let line = home.refused(2, &["mount", "-f", mnt, "--volume", "sealed"]);
    assert!(
        line.contains("--volume plain") && line.contains("not encrypted"),
        "{line}"
    );
    let line = home.refused(2, &["demo", mnt, "--volume", "sealed"]);
    assert!(
        line.contains("sealed volumes are not available yet"),
        "{line}"
    );
    let node = "ipfs=http://127.0.0.1:1";
    let password = ["--node-password-file", "f"];
    let line = home.refused(2, &["tokens", "--node", node, password[0], password[1]]);
    assert!(line.contains("--node-token-file"), "{line}");
    let line = home.refused(2, &["mount", "-f", mnt, "--volume", "plain", "-o", "suger"]);
    assert!(line.contains("suger"), "{line}");
}

#[test]
fn a_mount_in_the_background_reports_its_failure_to_the_terminal() {
    let home = Home::new();
    let mountpoint = home.mountpoint();
    let parts = home.embedded();
    let mut words = vec!["mount", mountpoint.to_str().unwrap()];
    words.extend(parts.iter().map(String::as_str));
    let line = home.refused(2, &words);
    assert!(line.contains("wallet"), "{line}");
}

#[test]
fn an_endpoint_that_is_none_is_refused_without_showing_its_key() {
    let home = Home::new();
    let line = home.refused(2, &["tokens", "--rpc-url", "ftp://host/SECRET"]);
    assert!(
        line.contains("https://") && line.contains("--rpc-url"),
        "{line}"
    );
    // Mistyped in each place where one can be given.
    for url in [
        "ftp://u:SECRET@host",
        "https//host/SECRET",
        "ipfs:http//u:SECRET@h:5001",
        "ipfs=htp://u:SECRET@h",
        "ipfs=http://u:SECRET/2@h x",
        "SECRET",
    ] {
        for option in ["--rpc-url", "--node"] {
            let value = format!("{option}={url}");
            let tried = [vec!["tokens", option, url], vec!["doctor", &value]];
            let mut said: Vec<_> = tried.iter().map(|words| home.run(words)).collect();
            let variable = if option == "--node" {
                "PXFS_NODE"
            } else {
                "PXFS_RPC_URL"
            };
            let mut command = home.command(&["tokens"]);
            said.push(command.env(variable, url).output().unwrap());
            let file = home.path("config.toml");
            fs::write(&file, format!("{} = \"{url}\"\n", &option[2..])).unwrap();
            said.push(home.run(&["tokens", "--config", file.to_str().unwrap()]));
            for (n, output) in said.iter().enumerate() {
                let both = [output.stdout.clone(), output.stderr.clone()].concat();
                let text = String::from_utf8(both).unwrap();
                assert!(!text.contains("SECRET"), "{option} {url} ({n}): {text}");
                assert!(!output.status.success(), "{option} {url} ({n})");
            }
        }
        for words in [
            &["tokens", url][..],
            &["tokens", "--nodee", url],
            &[url],
            &["tokens", "--contract", url],
            &["sync", url],
        ] {
            let text = home.refused(2, words);
            let is_shown = url != "SECRET" && text.contains("SECRET");
            assert!(!is_shown, "{words:?}: {text}");
        }
    }
    let urls = home.path("urls");
    fs::write(&urls, "# mine\nftp://host/SECRET\n").unwrap();
    let line = home.refused(2, &["tokens", "--rpc-url-file", urls.to_str().unwrap()]);
    assert!(
        line.contains("line 2") && !line.contains("SECRET"),
        "{line}"
    );
}

#[test]
fn a_chain_that_does_not_answer_is_exit_3() {
    let home = Home::new();
    fs::create_dir_all(home.path("state")).unwrap();
    write_wallet(&home.path("state/wallet"), 0o600);
    let node = format!("--node=embedded={}", home.path("node").display());
    let state = format!("--state-dir={}", home.path("state").display());
    // Port 9 (discard) is closed on every machine that runs tests.
    let words = [
        "tokens",
        &node,
        &state,
        "--rpc-url=http://127.0.0.1:9",
        "--contract=0x5FbDB2315678afecb367f032d93F642f64180aa3",
    ];
    let line = home.refused(3, &words);
    assert!(line.contains("http://127.0.0.1:9"), "{line}");
}

#[test]
fn doctor_says_what_to_do_and_fails_when_something_is_amiss() {
    let home = Home::new();
    let output = home.run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let wallet = checks
        .iter()
        .find(|check| check["check"] == "wallet")
        .unwrap();
    assert_eq!(wallet["ok"], false);
    assert!(wallet["fix"].as_str().unwrap().contains("--wallet"));
    for check in &checks {
        assert_eq!(check["ok"] == true, check["fix"].is_null(), "{check}");
    }
}

#[test]
fn help_and_version_are_answers() {
    let home = Home::new();
    for words in [
        &["--help"][..],
        &["--version"],
        &["man"],
        &["completions", "bash"],
    ] {
        let output = home.run(words);
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
}
