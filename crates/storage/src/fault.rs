//! A script of faults for the fault wrappers of block and name stores.
//!
//! Invariant: without a fault, a wrapper only counts. Faults change while calls run; clearing a
//! fault releases the calls that hang on it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault<E> {
    /// Fails without having done anything.
    Before(E),
    /// Does it and fails: the answer was lost.
    After(E),
    /// Hangs until the fault is cleared.
    Hang,
    /// Answers late.
    Delay(Duration),
    /// Gives wrong bytes.
    Corrupt,
    /// Claims success without doing it; reports what is asked for as missing.
    Drop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome<E> {
    /// As it should.
    Honest,
    /// See [`Fault::After`].
    Fail(E),
    /// See [`Fault::Corrupt`].
    Corrupt,
    /// See [`Fault::Drop`].
    Drop,
}

/// The faults set for the calls `C`, and a count of each.
pub(crate) struct Script<C, E> {
    state: Mutex<State<C, E>>,
    /// Changes with the faults.
    changes: watch::Sender<u64>,
}

struct State<C, E> {
    /// A call's fault, and how often it strikes; `None` for always.
    faults: HashMap<C, (Fault<E>, Option<u64>)>,
    counts: HashMap<C, u64>,
}

impl<C, E> Script<C, E>
where
    C: Copy + Eq + Hash,
    E: Clone,
{
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                faults: HashMap::new(),
                counts: HashMap::new(),
            }),
            changes: watch::Sender::new(0),
        }
    }

    /// From now on `call` meets `fault`: `times` times, or always.
    pub(crate) fn set(&self, call: C, fault: Fault<E>, times: Option<u64>) {
        self.state().faults.insert(call, (fault, times));
        self.changes.send_modify(|n| *n += 1);
    }

    /// Ends all faults.
    pub(crate) fn clear(&self) {
        self.state().faults.clear();
        self.changes.send_modify(|n| *n += 1);
    }

    /// How often `call` was called.
    pub(crate) fn count(&self, call: C) -> u64 {
        self.state().counts.get(&call).copied().unwrap_or(0)
    }

    /// Counts from zero again.
    pub(crate) fn reset_counts(&self) {
        self.state().counts.clear();
    }

    /// Begins a call: counts it, delays it, and decides its outcome.
    pub(crate) async fn enter(&self, call: C) -> Result<Outcome<E>, E> {
        let mut changes = self.changes.subscribe();
        *self.state().counts.entry(call).or_insert(0) += 1;
        loop {
            match self.strike(call) {
                None => return Ok(Outcome::Honest),
                Some(Fault::Before(error)) => return Err(error),
                Some(Fault::After(error)) => return Ok(Outcome::Fail(error)),
                Some(Fault::Corrupt) => return Ok(Outcome::Corrupt),
                Some(Fault::Drop) => return Ok(Outcome::Drop),
                Some(Fault::Delay(time)) => {
                    tokio::time::sleep(time).await;
                    return Ok(Outcome::Honest);
                }
                // The sender lives as long as the script.
                Some(Fault::Hang) => drop(changes.changed().await),
            }
        }
    }

    fn strike(&self, call: C) -> Option<Fault<E>> {
        let mut state = self.state();
        let (fault, times) = state.faults.get_mut(&call)?;
        let fault = fault.clone();
        match times {
            // A hanging call waits for a change, so its turns are not counted.
            Some(left) if !matches!(fault, Fault::Hang) => {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    state.faults.remove(&call);
                }
            }
            _ => {}
        }
        Some(fault)
    }

    fn state(&self) -> MutexGuard<'_, State<C, E>> {
        // Every change is one insert or remove, so the state is valid even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C, E> fmt::Debug for Script<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}
