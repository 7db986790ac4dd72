//! A chain inside this process: a real EVM (revm) behind alloy's transport, stored in a folder.
//!
//! It mines each transaction at once in its own block, as anvil does. A block's effects are logged
//! before anybody sees it (`log`, `record`), so a crash leaves each transaction mined or not, and
//! hashes, times and receipts survive reopening. Unlike on other chains, calls at `latest` see the
//! present time.
//!
//! Invariant: one process owns the folder; one thread (`writer`) changes the chain.
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

/// How long an order may wait for earlier ones and the disk.
const ORDER_LIMIT: Duration = Duration::from_secs(60);

/// An embedded chain. Cheap to clone; closes with its last clone, or by [`Handle::close`].
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

    /// Creates `folder` (0700) with a new chain and opens it.
    ///
    /// # Errors
    /// [`ChainError::Damaged`] if it has a chain already or the disk refuses, [`ChainError::Busy`] if
    /// another process has the folder.
    pub fn create(
        folder: &Path,
        genesis: &Genesis,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ChainError> {
        let timestamp = clock.wall_s();
        let log = Log::create(folder, &Record::Genesis(genesis.clone(), timestamp))?;
        Self::start(Chain::new(genesis, timestamp), Some(log), clock)
    }

    /// Opens the chain in `folder`, truncating a half-written record; blocks until the log is read.
    ///
    /// # Errors
    /// [`ChainError::Damaged`] if there is none, or it is damaged (with byte and reason; nothing is
    /// changed); [`ChainError::Busy`] if another process has the folder.
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

    /// A chain in memory only.
    ///
    /// # Errors
    /// [`ChainError::Damaged`] if the system gives no thread.
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

    /// Moves chain time forward by `step` (whole seconds) and mines a block. Durable on return.
    ///
    /// # Errors
    /// [`ChainError::Transient`] if the chain is closed or its disk refuses.
    pub async fn advance(&self, step: Duration) -> Result<(), ChainError> {
        let fault = |fault: Fault| ChainError::Transient(fault.payload().message.into_owned());
        self.order(Order::Advance(step.as_secs()))
            .await
            .map_err(fault)?;
        self.order(Order::Mine(1)).await.map_err(fault)?;
        Ok(())
    }

    /// Ends writing and releases the folder; mined blocks stay readable. Waits for a transaction
    /// being mined.
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
