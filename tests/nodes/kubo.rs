//! An IPFS node for the tests: kubo, which `tests/run setup` builds.
//!
//! Invariant: each [`Kubo`] has a repository and ports of its own, knows no other node, and ends with
//! its value, or with this process, however that ends. Nothing leaves the loopback interface.

#[path = "../common/keeper.rs"]
mod keeper;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keeper::Kept;
use tempfile::TempDir;

/// A node that runs, unless it was killed.
pub(crate) struct Kubo {
    /// Goes with it.
    _folder: Option<TempDir>,
    repo: PathBuf,
    url: String,
    kept: Option<Kept>,
}

impl Kubo {
    /// A fresh node, ready.
    pub(crate) fn start() -> Self {
        assert!(
            program().exists(),
            "{} is missing: run `tests/run setup`",
            program().display()
        );
        let folder = tempfile::Builder::new().prefix("px-ipfs-").tempdir();
        let folder = folder.expect("a folder");
        let repo = folder.path().join("repo");
        Self {
            _folder: Some(folder),
            ..Self::start_in(&repo)
        }
    }

    /// A fresh node in this repository, ready.
    pub(crate) fn start_in(repo: &Path) -> Self {
        let mut node = Self {
            _folder: None,
            repo: repo.to_owned(),
            url: String::new(),
            kept: None,
        };
        node.ipfs(&["init", "--empty-repo", "--profile=test"]);
        node.run();
        node
    }

    /// A fresh node, ready, whose RPC wants `secret` (`bearer:TOKEN` or `basic:USER:PASSWORD`) for every call. Its own
    /// command line has none.
    pub(crate) fn guarded(secret: &str) -> Self {
        let mut node = Self::start();
        node.kill();
        node.want(secret);
        node.run();
        node
    }

    /// From its next start on its RPC wants `secret`.
    pub(crate) fn want(&self, secret: &str) {
        let rule = serde_json::json!({"AuthSecret": secret, "AllowedPaths": ["/api/v0"]});
        self.configure(|config| config["API"]["Authorizations"]["drive"] = rule);
    }

    /// Changes its configuration, which it reads at its start, and shows as it stands on the disk.
    pub(crate) fn configure(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let file = self.repo.join("config");
        let text = std::fs::read(&file).expect("a configuration");
        let mut config = serde_json::from_slice(&text).expect("a configuration");
        change(&mut config);
        std::fs::write(file, config.to_string()).expect("a configuration");
    }

    /// Ends it as `kill -9` does. Its repository stays.
    pub(crate) fn kill(&mut self) {
        self.kept = None;
        let _ = std::fs::remove_file(self.repo().join("api"));
    }

    /// Starts it after [`Kubo::kill`], at another address.
    pub(crate) fn run(&mut self) {
        let repo = self.repo();
        let env = [
            ("IPFS_PATH", repo.to_str().expect("a path")),
            ("IPFS_TELEMETRY", "off"),
        ];
        let program = program();
        let program = program.to_str().expect("a path");
        let (kept, lines) = Kept::start(program, &["daemon"], &env);
        let mut lines = lines.map_while(Result::ok);
        let mut said = String::new();
        let ready = lines.any(|line| {
            said.push_str(&line);
            said.push('\n');
            line == "Daemon is ready"
        });
        assert!(ready, "the node ended at its start:\n{said}");
        // What it writes later must go somewhere, or it stops.
        std::thread::spawn(move || lines.for_each(drop));
        let address = std::fs::read_to_string(repo.join("api")).expect("its address");
        let mut words = address.trim().split('/');
        let (Some(host), Some(port)) = (words.nth(2), words.nth(1)) else {
            panic!("the node's address is {address}");
        };
        self.url = format!("http://{host}:{port}");
        self.kept = Some(kept);
    }

    /// Where its RPC listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where its gateway listens.
    pub(crate) fn gateway(&self) -> String {
        let said = std::fs::read_to_string(self.repo.join("gateway")).expect("its gateway");
        said.trim().to_owned()
    }

    /// Loses a block behind its pins, while it does not run: the file of its multihash is gone.
    #[allow(dead_code, reason = "the suite of nodes loses none")]
    pub(crate) fn lose(&self, cid: &cid::Cid) {
        assert!(self.kept.is_none(), "it knows what it has just had");
        let key = data_encoding::BASE32_NOPAD.encode(&cid.hash().to_bytes());
        let shard = &key[key.len() - 3..key.len() - 1];
        let file = self
            .repo
            .join("blocks")
            .join(shard)
            .join(format!("{key}.data"));
        std::fs::remove_file(&file).expect("it has the block");
    }

    /// Connects it to another.
    pub(crate) fn connect(&self, other: &Self) {
        let id: serde_json::Value =
            serde_json::from_str(&other.ipfs(&["id"])).expect("the node says who it is");
        let address = id["Addresses"][0].as_str().expect("an address");
        self.ipfs(&["swarm", "connect", address]);
    }

    /// What the node's own command line answers.
    #[track_caller]
    pub(crate) fn ipfs(&self, args: &[&str]) -> String {
        let output = self.try_ipfs(args);
        assert!(
            output.status.success(),
            "ipfs {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// As [`Kubo::ipfs`], also when it fails.
    pub(crate) fn try_ipfs(&self, args: &[&str]) -> Output {
        Command::new(program())
            .args(args)
            .env("IPFS_PATH", self.repo())
            .env("IPFS_TELEMETRY", "off")
            .output()
            .expect("ipfs runs")
    }

    /// Its repository.
    pub(crate) fn repo(&self) -> PathBuf {
        self.repo.clone()
    }
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/ipfs")
}
