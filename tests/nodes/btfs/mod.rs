//! A stand-in for a BTFS node: it speaks the dialect of go-btfs 3.3 and 4.0 as real ones were seen to
//! speak it, with their defects, in front of a folder. It is no BTFS node: it has no peers, no chain,
//! and knows only the calls that pxfs, or a test of it, makes. `AgentVersion` says so.
//!
//! What is still other than a real node: it has no swarm (`dht/put` tells of no peer, so never of a line of Type 0 or 5 from
//! one), no `add`, `files`, `key`, `config` of one setting, `dag/export` or CAR on the gateway; no Range there; paths through a
//! missing node end at once and do not wait; a trailer's texts, headers and the order of `refs/local` may differ; `duration`
//! that is nonsense breaks no connection, and a `repo/gc` that is broken off names the root, not the block.
//!
//! Invariant: what was answered is in the folder, and there after a restart; logins are not. It ends
//! with its value. [`calls`] are the RPC calls, [`gateway`] is the gateway, [`disk`] the folder, [`names`] the records, [`unixfs`] files and
//! directories.

mod calls;
mod disk;
mod gateway;
mod names;
mod unixfs;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::Notify;

use disk::Disk;

/// How long a token lives.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The stand-in: runs, unless it was killed.
pub(crate) struct Btfs {
    folder: TempDir,
    address: SocketAddr,
    gateway: SocketAddr,
    auth: bool,
    running: Option<(Arc<Node>, JoinHandle<()>)>,
}

/// What the calls see.
struct Node {
    disk: Disk,
    address: SocketAddr,
    auth: bool,
    login: Mutex<Login>,
    /// How long a pin takes for each block.
    slowness: Mutex<Duration>,
    /// As its configuration has it.
    remote_api: Mutex<String>,
    /// The node has crashed, or is told to end.
    end: Notify,
    dead: AtomicBool,
}

/// Who has logged in since the start.
#[derive(Default)]
struct Login {
    tokens: HashMap<String, Instant>,
    anybody: bool,
}

impl Btfs {
    /// A fresh node that wants no login.
    pub(crate) fn start() -> Self {
        Self::begin(false)
    }

    /// A fresh node as it is set up by default: every call wants a token; `password` is set.
    pub(crate) fn guarded(password: &str) -> Self {
        let node = Self::begin(true);
        std::fs::write(node.folder.path().join("password"), password).expect("a password");
        node
    }

    /// As [`Btfs::start`], where another node has listened.
    pub(crate) fn start_at(url: &str) -> Self {
        let place = url.trim_start_matches("http://");
        Self::begin_at(place.parse().expect("an address"), false)
    }

    fn begin(auth: bool) -> Self {
        Self::begin_at(SocketAddr::from(([127, 0, 0, 1], 0)), auth)
    }

    fn begin_at(address: SocketAddr, auth: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("px-btfs-").tempdir();
        let mut node = Self {
            folder: folder.expect("a folder"),
            address,
            gateway: SocketAddr::from(([127, 0, 0, 1], 0)),
            auth,
            running: None,
        };
        node.run();
        node
    }

    /// Where its RPC listens: the same after a restart.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where its gateway listens: the same after a restart.
    pub(crate) fn gateway_url(&self) -> String {
        format!("http://{}", self.gateway)
    }

    /// Ends it as `kill -9` does: all connections break.
    pub(crate) fn kill(&mut self) {
        if let Some((node, thread)) = self.running.take() {
            node.die();
            thread.join().expect("the stand-in ends");
        }
    }

    /// Starts it after [`Btfs::kill`], or after it has crashed.
    pub(crate) fn run(&mut self) {
        self.kill();
        let listener = bind(self.address);
        self.address = listener.local_addr().expect("an address");
        let gateway = bind(self.gateway);
        self.gateway = gateway.local_addr().expect("an address");
        let node = Arc::new(Node {
            disk: Disk::open(self.folder.path()),
            address: self.address,
            auth: self.auth,
            login: Mutex::default(),
            slowness: Mutex::default(),
            remote_api: Mutex::new("/ip4/127.0.0.1/tcp/5101".to_owned()),
            end: Notify::new(),
            dead: AtomicBool::new(false),
        });
        let served = Arc::clone(&node);
        let thread = std::thread::spawn(move || serve(&served, [listener, gateway]));
        self.running = Some((node, thread));
    }

    /// Whether it has not crashed.
    pub(crate) fn is_alive(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|(node, _)| !node.dead.load(Ordering::SeqCst))
    }

    /// Makes all tokens void, as a day does.
    pub(crate) fn expire_tokens(&self) {
        let (node, _) = self.running.as_ref().expect("it runs");
        node.login.lock().expect("a lock").tokens.clear();
    }

    /// From now on its configuration says that its other RPC listens there.
    pub(crate) fn listen_too(&self, address: &str) {
        let (node, _) = self.running.as_ref().expect("it runs");
        *node.remote_api.lock().expect("a lock") = address.to_owned();
    }

    /// From now on a pin takes so long for each block.
    pub(crate) fn pin_slowly(&self, each: Duration) {
        let (node, _) = self.running.as_ref().expect("it runs");
        *node.slowness.lock().expect("a lock") = each;
    }

    /// Loses a block behind its pins.
    pub(crate) fn lose(&self, cid: &cid::Cid) {
        let (node, _) = self.running.as_ref().expect("it runs");
        node.disk.remove(cid);
    }
}

impl Drop for Btfs {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    /// Ends at once.
    fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.end.notify_one();
    }
}

/// Listens again where it has listened before: somebody's connection may have the port for a moment.
fn bind(address: SocketAddr) -> TcpListener {
    let begin = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) if begin.elapsed() > Duration::from_secs(60) => {
                panic!("{address} is not free: {error}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn serve(node: &Arc<Node>, listeners: [TcpListener; 2]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let [rpc, gateway] = listeners.map(|listener| {
            listener.set_nonblocking(true).expect("a socket");
            tokio::net::TcpListener::from_std(listener).expect("a socket")
        });
        let rpc = axum::serve(rpc, calls::router(Arc::clone(node)));
        let gateway = axum::serve(gateway, gateway::router(Arc::clone(node)));
        tokio::select! {
            served = rpc.into_future() => served.expect("it serves"),
            served = gateway.into_future() => served.expect("it serves"),
            () = node.end.notified() => {}
        }
    });
    // All connections break.
    runtime.shutdown_timeout(Duration::from_secs(5));
}
