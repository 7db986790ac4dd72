//! A chain inside this process: a real EVM (revm) behind alloy's transport, kept in a folder.
//!
//! It mines each transaction at once, in a block of its own, as anvil does. What a block did is in
//! an append-only log before anybody sees the block (`log`, `record`), so a crash at any moment
//! leaves each transaction mined or not, and after opening again hashes, times and receipts are the
//! same. Unlike on other chains, calls at `latest` see the present time, not the newest block's.
//!
//! Invariant: one process owns the folder; one thread (`writer`) changes the chain. Called by
//! whoever builds an `Endpoint`.
//!
//! The way of a transaction: `service` (request) → `writer` (one at a time) → `chain` and `evm`
//! (run) → `log` (durable) → `chain` (visible) → response.

use std::fmt;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

mod chain;
mod codec;
mod estimate;
mod evm;
mod fault;
mod log;
mod record;
mod rpc;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use record::Genesis;

use self::chain::Chain;
use self::fault::Fault;
use self::log::Log;
use self::record::Record;
use self::writer::{Command, Done, Order, Shared, Writer};
use super::ChainError;
use pxfs_base::clock::Clock;

/// How long an order may take: it waits for the orders before it and for the disk.
const ORDER_LIMIT: Duration = Duration::from_secs(60);

/// An embedded chain. Cheap to clone; the chain closes with its last clone, or by
/// [`Handle::close`].
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    orders: Mutex<Option<Sender<Command>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("embedded::Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Whether `folder` holds a chain.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        Log::exists(folder)
    }

    /// Makes a new chain in `folder` (made too, 0700) and opens it.
    ///
    /// # Errors
    /// [`ChainError::Damaged`] when there is one already or the disk refuses,
    /// [`ChainError::Busy`] when another process has the folder.
    pub fn create(
        folder: &Path,
        genesis: &Genesis,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ChainError> {
        let timestamp = clock.wall_s();
        let log = Log::create(folder, &Record::Genesis(genesis.clone(), timestamp))?;
        Self::start(Chain::new(genesis, timestamp), Some(log), clock)
    }

    /// Opens the chain in `folder`. What a crash left half-written is cut off; blocks until the
    /// log is read.
    ///
    /// # Errors
    /// [`ChainError::Damaged`] when there is none, or it is damaged (byte and reason are told, and
    /// nothing is changed); [`ChainError::Busy`] when another process has the folder.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, ChainError> {
        let mut chain = None;
        let log = Log::open(folder, |record| match (&mut chain, record) {
            (Some(chain), record) => Chain::take(chain, record),
            (None, Record::Genesis(genesis, timestamp)) => {
                chain = Some(Chain::new(&genesis, timestamp));
                Ok(())
            }
            (None, _) => Err("it does not begin with a genesis".to_owned()),
        })?;
        let what = || ChainError::Damaged(format!("{} holds no chain", folder.display()));
        Self::start(chain.ok_or_else(what)?, Some(log), clock)
    }

    /// A chain that lives in memory alone.
    ///
    /// # Errors
    /// [`ChainError::Damaged`] when the system gives no thread.
    pub fn memory(genesis: &Genesis, clock: Arc<dyn Clock>) -> Result<Self, ChainError> {
        let chain = Chain::new(genesis, clock.wall_s());
        Self::start(chain, None, clock)
    }

    fn start(chain: Chain, log: Option<Log>, clock: Arc<dyn Clock>) -> Result<Self, ChainError> {
        let shared = Arc::new(Shared::new(chain, clock));
        let writer = Writer {
            shared: Arc::clone(&shared),
            log,
            snapshots: Vec::new(),
        };
        let (orders, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("chain".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|fault| ChainError::Damaged(format!("gets no thread: {fault}")))?;
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                orders: Mutex::new(Some(orders)),
                writer: Mutex::new(Some(thread)),
            }),
        })
    }

    /// EIP-155 chain id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.inner.shared.read().chain_id
    }

    /// Number of the newest block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.inner.shared.read().height()
    }

    /// Lets chain time pass: everything after, the block that is mined here included, is `step`
    /// (whole seconds) later. Durable on return.
    ///
    /// # Errors
    /// [`ChainError::Transient`] when the chain is closed or its disk refuses.
    pub async fn advance(&self, step: Duration) -> Result<(), ChainError> {
        let fault = |fault: Fault| ChainError::Transient(fault.payload().message.into_owned());
        self.order(Order::Advance(step.as_secs()))
            .await
            .map_err(fault)?;
        self.order(Order::Mine(1)).await.map_err(fault)?;
        Ok(())
    }

    /// Ends writing and gives the folder free; what was mined can still be read. Waits for the
    /// transaction that is being mined.
    pub fn close(&self) {
        self.inner.close();
    }

    async fn order(&self, order: Order) -> Result<Done, Fault> {
        let closed = || Fault::internal("the embedded chain is closed");
        let (answer, done) = oneshot::channel();
        let sent = {
            let orders = self
                .inner
                .orders
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let command = Command { order, answer };
            orders
                .as_ref()
                .is_some_and(|orders| orders.send(command).is_ok())
        };
        if !sent {
            return Err(closed());
        }
        match tokio::time::timeout(ORDER_LIMIT, done).await {
            Ok(done) => done.unwrap_or_else(|_| Err(closed())),
            Err(_) => Err(Fault::internal("the embedded chain's disk does not answer")),
        }
    }
}

impl Inner {
    fn close(&self) {
        drop(
            self.orders
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the writer of the embedded chain ended in a panic");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
