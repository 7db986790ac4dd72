//! A script of faults: what the fault wrappers of block and name stores play.
//!
//! Invariant: without a fault set, a wrapper does nothing but count. Faults are set and cleared
//! while calls run; a call that hangs goes on when its fault is cleared. Called by tests, and by a
//! development switch.

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
    /// Does it, and fails all the same: the answer was lost.
    After(E),
    /// Does not answer before the fault is cleared.
    Hang,
    /// Answers late.
    Delay(Duration),
    /// Gives other bytes than are there.
    Corrupt,
    /// Says that it did, and did not; says of what is asked for that it is not there.
    Drop,
}

/// How a call goes on once it was let in.
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

/// The faults set for the calls `C`, and how often each was called.
pub(crate) struct Script<C, E> {
    state: Mutex<State<C, E>>,
    /// Moves on with every change of the faults.
    changes: watch::Sender<u64>,
}

struct State<C, E> {
    /// The fault of a call, and how often it strikes; `None` for always.
    faults: HashMap<C, (Fault<E>, Option<u64>)>,
    counts: HashMap<C, u64>,
}

impl<C, E> Script<C, E>
where
    C: Copy + Eq + Hash,
    E: Clone,
{
    /// No faults, nothing counted.
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

    /// Begins a call: counts it, lets it wait, and says how it goes on.
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

    /// The fault that strikes `call` now, counted off.
    fn strike(&self, call: C) -> Option<Fault<E>> {
        let mut state = self.state();
        let (fault, times) = state.faults.get_mut(&call)?;
        let fault = fault.clone();
        match times {
            // A call that hangs waits for a change, so its turns are not counted off.
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
        // Every change is one insert or remove, so the state is whole after a panic too.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C, E> fmt::Debug for Script<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}
