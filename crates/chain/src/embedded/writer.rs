//! The embedded chain's one writer: a thread that mines one transaction a block.
//!
//! Invariant: a record is durable before the chain shows it or anybody hears of it. No lock is held
//! during log writes; an EVM run holds only the read lock, so calls continue.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use alloy::primitives::{B256, Bytes};
use tokio::sync::oneshot;

use super::chain::Chain;
use super::fault::Fault;
use super::log::Log;
use super::record::Record;
use pxfs_base::clock::Clock;

/// The most empty blocks of one command.
const MINE_MAX: u64 = 10_000;

pub(super) struct Shared {
    chain: RwLock<Chain>,
    clock: Arc<dyn Clock>,
}

impl Shared {
    pub(super) fn new(chain: Chain, clock: Arc<dyn Clock>) -> Self {
        Self {
            chain: RwLock::new(chain),
            clock,
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Chain> {
        self.chain.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Chain> {
        self.chain.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.wall_s()
    }
}

#[derive(Debug)]
pub(super) enum Order {
    Send(Bytes),
    Mine(u64),
    /// Advance chain time by seconds.
    Advance(u64),
    /// Remember this state.
    Snapshot,
    /// Revert to a snapshot.
    Revert(u64),
}

#[derive(Debug)]
pub(super) enum Done {
    /// Hash of the transaction now in the newest block.
    Sent(B256),
    Mined,
    Advanced(u64),
    /// The snapshot's number.
    Remembered(u64),
    /// Whether the snapshot existed.
    Reverted(bool),
}

/// An order and where its answer goes.
pub(super) struct Command {
    pub(super) order: Order,
    pub(super) answer: oneshot::Sender<Result<Done, Fault>>,
}

/// `log` is `None` for a chain in memory.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Option<Log>,
    /// Block and clock offset of each snapshot, by number.
    pub(super) snapshots: Vec<(u64, u64)>,
}

impl Writer {
    pub(super) fn run(mut self, orders: Receiver<Command>) {
        for command in orders {
            let done = self.carry_out(command.order);
            // The caller may have given up.
            drop(command.answer.send(done));
        }
    }

    fn carry_out(&mut self, order: Order) -> Result<Done, Fault> {
        match order {
            Order::Send(raw) => {
                let now = self.shared.now();
                let (hash, block) = self.shared.read().mine(raw, now)?;
                self.commit(Record::Block(Box::new(block)))?;
                Ok(Done::Sent(hash))
            }
            Order::Mine(count) => {
                if count > MINE_MAX {
                    return Err(Fault::params(format!("at most {MINE_MAX} blocks at once")));
                }
                for _ in 0..count {
                    let now = self.shared.now();
                    let block = self.shared.read().mine_empty(now);
                    self.commit(Record::Block(Box::new(block)))?;
                }
                Ok(Done::Mined)
            }
            Order::Advance(seconds) => {
                let offset_s = self.shared.read().offset_s.saturating_add(seconds);
                self.commit(Record::Clock(offset_s))?;
                Ok(Done::Advanced(offset_s))
            }
            Order::Snapshot => {
                let chain = self.shared.read();
                self.snapshots.push((chain.height(), chain.offset_s));
                Ok(Done::Remembered(self.snapshots.len() as u64 - 1))
            }
            Order::Revert(number) => {
                let index = usize::try_from(number).unwrap_or(usize::MAX);
                let Some((block, offset_s)) = self.snapshots.get(index).copied() else {
                    return Ok(Done::Reverted(false));
                };
                self.commit(Record::Revert { block, offset_s })?;
                self.snapshots.truncate(index);
                Ok(Done::Reverted(true))
            }
        }
    }

    /// First the disk, then the chain.
    fn commit(&mut self, record: Record) -> Result<(), Fault> {
        if let Some(log) = &mut self.log {
            log.append(&record)
                .map_err(|fault| Fault::internal(fault.to_string()))?;
        }
        self.shared.write().take(record).map_err(Fault::internal)
    }
}
