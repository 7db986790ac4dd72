//! A chain with the contracts and their operators, gateways that serve what a test says, and operators
//! as processes.
//!
//! Invariant: what it has started ends with it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::primitives::{Address, U256, hex, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use pxfs::chain::ChainError;
use pxfs::chain::deploy::{Deployment, deploy};
use pxfs::chain::endpoint::Endpoint;
use pxfs::chain::transact::{SyncRequest, Synced, Transactor};
use pxfs::chain::wallet::Wallet;
use pxfs::names::key::NameKey;
use pxfs::pack::usage::Usage;
use pxfs::types::{TokenId, TokenKey, VolumeKey};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::anvil::Anvil;
use crate::secret::files_below;

/// The first accounts of anvil: who deploys and owns, and up to three operators.
const OWNER: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
pub(crate) const OPERATORS: [&str; 3] = [
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
];
/// Nothing here takes longer, on a machine under load.
const LIMIT: Duration = Duration::from_secs(60);

/// A token and the key of its name.
pub(crate) struct Token {
    pub(crate) token: TokenId,
    pub(crate) key: NameKey,
    pub(crate) name: String,
}

pub(crate) struct World {
    runtime: Runtime,
    anvil: Anvil,
    payer: Transactor,
    suite: Deployment,
    folder: TempDir,
}

impl World {
    /// Contracts whose forwarder wants `threshold` of so many operators.
    pub(crate) fn new(operators: usize, threshold: u64) -> Self {
        let anvil = Anvil::start(&[]);
        let runtime = Runtime::new().unwrap();
        let endpoint = Endpoint::http(anvil.url()).unwrap();
        let payer = Transactor::new(endpoint, &wallet(OWNER));
        let operators: Vec<Address> = OPERATORS[..operators]
            .iter()
            .map(|secret| wallet(secret).address())
            .collect();
        let suite = runtime.block_on(deploy(&payer, &operators, threshold));
        Self {
            suite: suite.unwrap(),
            runtime,
            anvil,
            payer,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A token of the package of 1 GiB, with a name of its own.
    pub(crate) fn mint(&self, seed: u8) -> Token {
        let key = NameKey::from_seed(&[seed; 32]);
        let minted = self.runtime.block_on(async {
            let nonce = self.payer.next_nonce().await.unwrap();
            let contract = self.suite.contract;
            self.payer.mint(contract, 1, &key.name(), nonce).await
        });
        Token {
            token: minted.unwrap().token,
            name: key.name(),
            key,
        }
    }

    pub(crate) fn document(&self, token: &Token, sequence: u64, usage: u64) -> Vec<u8> {
        self.write(&token.key, (token.token, 1), sequence, usage)
    }

    /// A document of any token and epoch, by any key.
    pub(crate) fn document_by(
        &self,
        _: &Token,
        key: &NameKey,
        token: TokenId,
        epoch: u64,
        sequence: u64,
    ) -> Vec<u8> {
        self.write(key, (token, epoch), sequence, 100)
    }

    fn write(
        &self,
        key: &NameKey,
        (token, epoch): (TokenId, u64),
        sequence: u64,
        usage: u64,
    ) -> Vec<u8> {
        let token = TokenKey {
            chain_id: 31337,
            contract: self.suite.contract,
            token,
        };
        let document = Usage {
            volume: VolumeKey { token, epoch },
            quota: 1 << 30,
            usage,
            uploads: 1,
            cid: None,
            root: None,
            sequence,
            updated_s: 1_790_000_000,
        };
        document.sign(key.signing_key()).unwrap()
    }

    /// Asks for a sync.
    pub(crate) fn ask(&self, token: &Token) -> SyncRequest {
        let asked = self.payer.sync(self.suite.contract, token.token);
        self.runtime.block_on(asked).unwrap()
    }

    pub(crate) fn wait(&self, request: &SyncRequest) -> Result<Synced, ChainError> {
        let landed = self.payer.wait_synced(self.suite.contract, request, LIMIT);
        self.runtime.block_on(landed)
    }

    pub(crate) fn sync(&self, token: &Token) -> Result<Synced, ChainError> {
        self.wait(&self.ask(token))
    }

    pub(crate) fn height(&self) -> u64 {
        self.runtime
            .block_on(self.payer.endpoint().height())
            .unwrap()
    }

    /// How many reports were delivered, counted on the chain.
    pub(crate) fn deliveries(&self) -> usize {
        let filter = Filter::new()
            .address(self.suite.forwarder)
            .event_signature(keccak256("Delivered(address,bytes32)"))
            .from_block(0);
        let logs = self.payer.endpoint().provider().get_logs(&filter);
        self.runtime.block_on(logs).unwrap().len()
    }

    /// Takes an operator's coins away.
    pub(crate) fn impoverish(&self, operator: usize) {
        self.endow(operator, U256::ONE);
    }

    pub(crate) fn enrich(&self, operator: usize) {
        self.endow(operator, U256::from(10).pow(U256::from(18)));
    }

    fn endow(&self, operator: usize, wei: U256) {
        let who = wallet(OPERATORS[operator]).address();
        let client = self.payer.endpoint().provider().client();
        let set = client.request::<_, Value>("anvil_setBalance", (who, wei));
        self.runtime.block_on(set).unwrap();
    }

    /// An operator that reads from `gateway`, and listens at its port where there are several.
    pub(crate) fn operator(&self, index: usize, gateway: &Gateway, ports: &[u16]) -> Operator {
        let mut words = vec![
            format!("--node=gateway={}", gateway.url()),
            "--allow-address=127.0.0.1".to_owned(),
        ];
        for (other, port) in ports.iter().enumerate() {
            words.push(if other == index {
                format!("--listen=127.0.0.1:{port}")
            } else {
                format!("--peer=http://127.0.0.1:{port}")
            });
        }
        self.start(index, words)
    }

    pub(crate) fn operator_with(&self, words: &[&str]) -> Operator {
        self.start(0, words.iter().map(ToString::to_string).collect())
    }

    /// The line of an operator that is not to start.
    pub(crate) fn refused_operator(&self, words: &[&str]) -> String {
        self.refused(OPERATORS[0], words)
    }

    /// The same for an account that is none of the operators.
    pub(crate) fn refused_stranger(&self, words: &[&str]) -> String {
        self.refused(OWNER, words)
    }

    /// What stands in the files of the first operator, its log among them, but in its wallet.
    pub(crate) fn files(&self) -> Vec<Vec<u8>> {
        let folder = self.folder.path();
        files_below(folder, &folder.join("operator-0/key"))
    }

    fn refused(&self, secret: &str, words: &[&str]) -> String {
        let mut command = self.command("refused", secret);
        let output = command.args(words).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    fn command(&self, name: &str, secret: &str) -> Command {
        let home = self.folder.path().join(name);
        fs::create_dir_all(&home).unwrap();
        let wallet = home.join("key");
        fs::write(&wallet, secret).unwrap();
        fs::set_permissions(&wallet, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pxfs"));
        command
            .env_clear()
            .env("HOME", &home)
            .current_dir(&home)
            .args(["oracle", "--json", "--refresh", "1s", "--rpc-url"])
            .arg(self.anvil.url())
            .args(["--contract", &self.suite.contract.to_string()])
            .args(["--wallet", wallet.to_str().unwrap()])
            .arg("--state-dir")
            .arg(home.join("state"));
        command
    }

    fn start(&self, index: usize, words: Vec<String>) -> Operator {
        let name = format!("operator-{index}");
        let log = self.folder.path().join(format!("{name}.log"));
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut child = self
            .command(&name, OPERATORS[index])
            .args(words)
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let (said, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or(json!(line));
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        let mut operator = Operator {
            child,
            lines,
            log,
            start: Value::Null,
        };
        operator.start = operator.told(|first| first["operator"].is_string());
        operator
    }
}

fn wallet(secret: &str) -> Wallet {
    let secret: [u8; 32] = hex::decode_to_array(secret).unwrap();
    Wallet::from_secret(secret.into()).unwrap()
}

/// A port that nobody listens at now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// An operator that runs.
pub(crate) struct Operator {
    child: Child,
    lines: Receiver<Value>,
    log: PathBuf,
    /// What it said first.
    pub(crate) start: Value,
}

impl Operator {
    /// The next thing it tells that is `wanted`.
    #[track_caller]
    pub(crate) fn told(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if wanted(&line) => return line,
                Ok(_) => {}
                Err(_) => panic!("it did not tell:\n{}", self.log()),
            }
        }
    }

    /// What it logged, over all its lives.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        let mut file = fs::File::open(&self.log).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    /// Asks it to end; its exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a gateway has, by name.
type Shelf = Arc<(Mutex<HashMap<String, Vec<u8>>>, AtomicUsize)>;

/// A gateway that serves what it is told to.
pub(crate) struct Gateway {
    _runtime: Runtime,
    url: String,
    shelf: Shelf,
}

impl Gateway {
    pub(crate) fn start() -> Self {
        async fn serve(
            State(shelf): State<Shelf>,
            Path(name): Path<String>,
        ) -> Result<Vec<u8>, StatusCode> {
            shelf.1.fetch_add(1, Ordering::SeqCst);
            let found = shelf.0.lock().unwrap().get(&name).cloned();
            found.ok_or(StatusCode::NOT_FOUND)
        }
        let shelf = Shelf::default();
        let runtime = Runtime::new().unwrap();
        let app = Router::new()
            .route("/ipns/{name}", get(serve))
            .with_state(Arc::clone(&shelf));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            _runtime: runtime,
            url,
            shelf,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Serves this under `name` from now on.
    pub(crate) fn serve(&self, name: &str, document: &[u8]) {
        let mut shelf = self.shelf.0.lock().unwrap();
        shelf.insert(name.to_owned(), document.to_vec());
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.shelf.1.load(Ordering::SeqCst)
    }
}
