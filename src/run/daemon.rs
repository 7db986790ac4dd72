//! The process that holds a mount: builds the parts, and serves until told to end.
//!
//! Invariant: however it ends itself, everything acknowledged is durable in the state folder first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::Instrument;

use crate::billing::auto_sync;
use crate::billing::charges;
use crate::chain::Accounting;
use crate::context::MountContext;
use crate::context::StateDir;
use crate::contracts::drive_pending;
use crate::contracts::{self, Parts};
use crate::control::Report;
use crate::control::{self, Registration};
use crate::exit::{Exit, Failure};
use crate::fetch::Fetcher;
use crate::fs::{Drive, FsError, Want};
use crate::mount::{self, Ended, Mounted};
use crate::node;
use crate::run::garbage_collection;
use crate::run::handler::SocketHandler;
use crate::run::session::Session;
use crate::run::shutdown;
use crate::signals::{Signal, Signals};
use crate::tokens::MountedContracts;

/// How long the first check of chain and node may delay the mount. Slower tokens appear later.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// How long the answer to `pxfs umount` may take to leave.
const LAST_WORD: Duration = Duration::from_secs(shutdown::CHARGE_LIMIT.as_secs() + 10);

/// How a daemon mounts.
#[derive(Clone, Debug)]
pub struct Place {
    /// Checked, canonical.
    pub mountpoint: PathBuf,
    /// The words of `-o`.
    pub options: mount::Options,
    /// Where it announces itself.
    pub runtime_dir: PathBuf,
}

/// A serving mount.
pub struct Daemon {
    session: Arc<Session>,
    tasks: Vec<JoinHandle<()>>,
    signals: Signals,
    registration: Option<Registration>,
    /// Dropped last.
    _state_dir: Arc<StateDir>,
}

impl Daemon {
    /// Mounts, and answers.
    ///
    /// # Errors
    /// One line each, with its exit code; nothing stays mounted.
    pub async fn start(
        place: Place,
        state_dir: StateDir,
        parts: Vec<Arc<Parts>>,
    ) -> anyhow::Result<Self> {
        let Some(first) = parts.first().cloned() else {
            return Err(Failure::new(Exit::Usage, "no token contract: give --contract 0x…").into());
        };
        // Before mounting: a signal meanwhile must not kill the process.
        let signals = Signals::new()?;
        allow_many_files();
        let state_dir = Arc::new(state_dir);
        state_dir.claim(first.chain.owner)?;
        let swept = Arc::clone(&state_dir);
        tokio::task::spawn_blocking(move || swept.empty_trash()).await?;
        let ground = MountContext::build(Arc::clone(&first), Arc::clone(&state_dir)).await?;
        let (drive, fetcher) = (Arc::clone(&ground.drive), Arc::clone(&ground.fetcher));
        let tokens = Arc::new(MountedContracts::new(&ground.with_others(&parts)));
        tokens.look_first(FIRST_LOOK).await?;
        let read_only = place.options.read_only;
        let mounted = mount(drive, fetcher, &place).await;
        let mounted = match mounted {
            Ok(mounted) => mounted,
            Err(error) => {
                stop(tokens).await;
                return Err(error);
            }
        };
        tokens.set_notifier(&mounted.notifier());
        let mut daemon = Self {
            session: Arc::new(Session::new(
                first,
                tokens,
                mounted,
                place.mountpoint,
                read_only,
            )),
            tasks: Vec::new(),
            signals,
            registration: None,
            _state_dir: state_dir,
        };
        if let Err(error) = daemon.begin(&place.runtime_dir).await {
            daemon.detach().await;
            daemon.close().await;
            return Err(error);
        }
        Ok(daemon)
    }

    /// Starts what runs beside the mount.
    async fn begin(&mut self, runtime_dir: &Path) -> anyhow::Result<()> {
        let session = &self.session;
        let (registration, listener) =
            Registration::announce(runtime_dir, self._state_dir.path(), &session.mountpoint)
                .with_context(|| format!("socket in {}", runtime_dir.display()))?;
        self.registration = Some(registration);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let desk = Arc::new(SocketHandler::new(Arc::clone(session)));
        self.tasks
            .push(tokio::spawn(control::serve(listener, desk)));
        let watching = Arc::clone(session).watch_node();
        self.tasks.push(tokio::spawn(
            watching.instrument(tracing::debug_span!("look")),
        ));
        let asked = Arc::clone(session);
        let needed_bytes = tokio::task::spawn_blocking(move || asked.quota_bytes()).await?;
        let parts = &session.parts.node;
        let first = parts
            .client
            .iter()
            .map(|client| (client, Some(needed_bytes)));
        let more = parts.more.iter().filter_map(|node| node.client.as_ref());
        let more = more.map(|client| (client, None));
        let nodes = first.chain(more);
        let nodes = nodes
            .map(|(client, bytes)| (client.clone(), bytes))
            .collect();
        self.tasks.push(tokio::spawn(node::look_over(nodes)));
        // Who only watches does not know which blocks of a node await a pin.
        if let Some(store) = session.parts.node.embedded.clone()
            && session.parts.chain.account.is_some()
        {
            let (tokens, clock) = (
                Arc::clone(&session.tokens),
                Arc::clone(&session.parts.clock),
            );
            self.tasks
                .push(tokio::spawn(garbage_collection::run(store, clock, tokens)));
        }
        for task in of_contracts(&session.tokens).await? {
            self.tasks.push(tokio::spawn(task));
        }
        Ok(())
    }

    /// Serves until a signal, `pxfs umount` or umount(8) ends it. `tell` hears the last flush's progress;
    /// `reload` is called on HUP.
    ///
    /// # Errors
    /// Not everything is published; the mount broke.
    pub async fn serve(
        mut self,
        tell: Report<'_>,
        reload: &(dyn Fn() + Send + Sync),
    ) -> anyhow::Result<Exit> {
        let session = Arc::clone(&self.session);
        let outcome = loop {
            tokio::select! {
                signal = self.signals.next() => match signal {
                    Signal::Report => report(&session).await,
                    Signal::Reload => reload(),
                    Signal::End => break self.end_by_signal(tell).await,
                },
                ended = session.mounted.wait() => break self.end_by_mount(ended, tell).await,
            }
        };
        self.close().await;
        outcome
    }

    async fn end_by_signal(&mut self, tell: Report<'_>) -> anyhow::Result<Exit> {
        let session = Arc::clone(&self.session);
        let (flushed, at_once) = tokio::select! {
            flushed = shutdown::flush(&session, tell) => (flushed, false),
            // The second signal: leave at once. The journal has what is pending.
            () = self.signals.end() => (shutdown::left_behind(&session).map_or(Ok(()), Err), true),
        };
        self.detach().await;
        if !at_once {
            self.charge(tell).await;
        }
        flushed?;
        Ok(Exit::Ok)
    }

    async fn end_by_mount(&mut self, ended: Ended, tell: Report<'_>) -> anyhow::Result<Exit> {
        let session = &Arc::clone(&self.session);
        if session.leaving.load(Ordering::Acquire) {
            // `pxfs umount` gets its answer first.
            let mut end = session.end.subscribe();
            let exit = match timeout(LAST_WORD, end.wait_for(Option::is_some)).await {
                Ok(Ok(exit)) => *exit,
                Ok(Err(_)) | Err(_) => None,
            };
            return Ok(exit.unwrap_or(Exit::Ok));
        }
        if let Ended::Failed(why) = ended {
            let line = format!("the mount on {} broke: {why}", session.mountpoint.display());
            return Err(Failure::new(Exit::Failure, line).into());
        }
        // umount(8).
        let published = shutdown::publish(session, None, tell).await;
        self.charge(tell).await;
        published?;
        Ok(Exit::Ok)
    }

    /// Charges the last commits, unless another signal comes.
    async fn charge(&mut self, tell: Report<'_>) {
        let session = Arc::clone(&self.session);
        tokio::select! {
            _ = shutdown::charge(&session, tell) => {}
            () = self.signals.end() => {}
        }
    }

    async fn detach(&self) {
        let mounted = Arc::clone(&self.session.mounted);
        let mut left =
            tokio::task::spawn_blocking(move || mounted.unmount().or_else(|_| mounted.detach()));
        let mut done = timeout(shutdown::REFUSED, &mut left).await;
        if done.is_err() {
            shutdown::give_up_reads(&self.session, true);
            done = timeout(shutdown::UNMOUNT_LIMIT, left).await;
        }
        match done {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::error!("{error}"),
            Ok(Err(_)) | Err(_) => {
                tracing::error!(path = %self.session.mountpoint.display(), "unmounting does not end");
            }
        }
    }

    async fn close(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        stop(Arc::clone(&self.session.tokens)).await;
        contracts::close_chains(self.session.tokens.parts()).await;
        self.registration = None;
    }
}

/// What runs for each contract and chain.
async fn of_contracts(all: &MountedContracts) -> anyhow::Result<Vec<BoxFuture<'static, ()>>> {
    let mut tasks: Vec<BoxFuture<'static, ()>> = Vec::new();
    let mut carried = BTreeSet::new();
    let mut turns: BTreeMap<u64, Arc<Mutex<()>>> = BTreeMap::new();
    for tokens in all.each() {
        let (parts, tokens) = (Arc::clone(tokens.parts()), Arc::clone(tokens));
        tasks.push(Box::pin(Arc::clone(&tokens).run()));
        if let Some(oracle) = crate::oracle::begin(&parts).await? {
            tasks.push(oracle);
        }
        let Some(account) = &parts.chain.account else {
            continue;
        };
        // One outbox a chain.
        let sender = account.transactor.clone();
        if carried.insert(parts.chain.chain_id) {
            tasks.push(Box::pin(drive_pending(sender.clone())));
        }
        let counts = parts.chain.ledger.known_accounting();
        if counts.is_none_or(|counts| counts == Accounting::Additive) {
            let (parts, tokens) = (Arc::clone(&parts), Arc::clone(&tokens));
            tasks.push(Box::pin(charges::run(parts, sender.unasked(), tokens)));
        }
        if let Some(before) = parts.config.auto_sync {
            let turn = Arc::clone(turns.entry(parts.chain.chain_id).or_default());
            tasks.push(Box::pin(auto_sync::run(parts, tokens, before, turn)));
        }
    }
    Ok(tasks)
}

async fn mount(drive: Arc<Drive>, fetcher: Arc<Fetcher>, place: &Place) -> anyhow::Result<Mounted> {
    let runtime = tokio::runtime::Handle::current();
    let (mountpoint, options) = (place.mountpoint.clone(), place.options.clone());
    let mounted = tokio::task::spawn_blocking(move || {
        mount::start(
            drive,
            Arc::new(Bringer(fetcher)),
            runtime,
            &mountpoint,
            &options,
        )
    });
    Ok(mounted.await?.map_err(crate::exit::of_mount)?)
}

async fn stop(tokens: Arc<MountedContracts>) {
    tokens.stop_publishing().await;
    if tokio::task::spawn_blocking(move || tokens.stop())
        .await
        .is_err()
    {
        tracing::error!("the volumes did not end in order; the journal has what was synced");
    }
}

async fn report(session: &Arc<Session>) {
    let session = Arc::clone(session);
    let status = tokio::task::spawn_blocking(move || session.status()).await;
    let line = status
        .map_err(anyhow::Error::from)
        .and_then(|status| Ok(serde_json::to_string(&status)?));
    match line {
        Ok(status) => tracing::info!("status {status}"),
        Err(error) => tracing::error!("status: {error:#}"),
    }
}

/// Adapts the fetcher to the mount.
struct Bringer(Arc<Fetcher>);

impl mount::Fetcher for Bringer {
    fn fetch(&self, want: Want) -> BoxFuture<'_, Result<(), FsError>> {
        Box::pin(self.0.fetch(want))
    }
}

/// Raises the limit of open files, because each file being written has one.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
