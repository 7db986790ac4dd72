//! The volume's locks and their order: four levels, outermost first.
//!
//! | level | guards | held across |
//! |---|---|---|
//! | 1 [`Saving`] | saves of one file: one at a time, in order | local reads, writes and syncs |
//! | 2 [`Content`] | the content of one file | local reads and writes of its bytes |
//! | 3 [`Names`] | names and attributes of the volume | reads of journal pages |
//! | 4 [`Memory`] | everything else | memory alone |
//!
//! Invariant: a thread takes locks by rising level, and holds one of a level. Only a take-over holds the contents of
//! several files ([`OrderedRw::write_beside`]). The journal's and the stage's own locks come below all of these. No lock
//! is held across a wait for the network. Builds with debug assertions panic if a lock is taken out of order.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{
    Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

use pxfs_base::lock;

/// A level of the order.
pub(crate) trait Level {
    /// Its place in the order; lower ones are taken first.
    const RANK: usize;
}

/// Level 1: saves of one file.
#[derive(Debug)]
pub(crate) struct Saving;

/// Level 2: the content of one file.
#[derive(Debug)]
pub(crate) struct Content;

/// Level 3: the volume's names and attributes.
#[derive(Debug)]
pub(crate) struct Names;

/// Level 4: held for a moment; no lock of the volume is taken below it.
#[derive(Debug)]
pub(crate) struct Memory;

impl Level for Saving {
    const RANK: usize = 0;
}

impl Level for Content {
    const RANK: usize = 1;
}

impl Level for Names {
    const RANK: usize = 2;
}

impl Level for Memory {
    const RANK: usize = 3;
}

#[cfg(debug_assertions)]
thread_local! {
    /// How many locks of each level this thread holds.
    static HELD: std::cell::Cell<[u32; 4]> = const { std::cell::Cell::new([0; 4]) };
}

/// That this thread holds a lock of a level.
struct Held<L: Level>(PhantomData<L>);

impl<L: Level> Held<L> {
    /// Before a lock is waited for: nothing of this level, or of a later one, is held.
    #[track_caller]
    fn check(may_hold_same: bool) {
        #[cfg(debug_assertions)]
        HELD.with(|held| {
            let first = L::RANK + usize::from(may_hold_same);
            let later = held.get().iter().skip(first).any(|&count| count > 0);
            assert!(
                !later,
                "locks out of order: {:?} and {}",
                held.get(),
                L::RANK
            );
        });
        #[cfg(not(debug_assertions))]
        let _ = may_hold_same;
    }

    fn new() -> Self {
        Self::count(1);
        Self(PhantomData)
    }

    fn count(by: i32) {
        #[cfg(debug_assertions)]
        HELD.with(|held| {
            let mut counts = held.get();
            if let Some(count) = counts.get_mut(L::RANK) {
                *count = count.saturating_add_signed(by);
            }
            held.set(counts);
        });
        #[cfg(not(debug_assertions))]
        let _ = by;
    }
}

impl<L: Level> Drop for Held<L> {
    fn drop(&mut self) {
        Self::count(-1);
    }
}

/// A guard of a lock of level `L`.
pub(crate) struct Guard<G, L: Level> {
    guard: G,
    _held: Held<L>,
}

impl<G: Deref, L: Level> Deref for Guard<G, L> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut, L: Level> DerefMut for Guard<G, L> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

impl<G, L: Level> Guard<G, L> {
    fn new(guard: G) -> Self {
        Self {
            guard,
            _held: Held::new(),
        }
    }
}

pub(crate) type OrderedGuard<'a, T, L> = Guard<MutexGuard<'a, T>, L>;
pub(crate) type ReadGuard<'a, T, L> = Guard<RwLockReadGuard<'a, T>, L>;
pub(crate) type WriteGuard<'a, T, L> = Guard<RwLockWriteGuard<'a, T>, L>;

/// A mutex of level `L`.
#[derive(Debug)]
pub(crate) struct Ordered<T, L> {
    mutex: Mutex<T>,
    level: PhantomData<L>,
}

impl<T: Default, L> Default for Ordered<T, L> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T, L> Ordered<T, L> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            mutex: Mutex::new(value),
            level: PhantomData,
        }
    }
}

impl<T, L: Level> Ordered<T, L> {
    #[track_caller]
    pub(crate) fn lock(&self) -> OrderedGuard<'_, T, L> {
        Held::<L>::check(false);
        Guard::new(lock(&self.mutex))
    }

    /// `None` if somebody holds it. Waits for nobody, so it may come out of order.
    pub(crate) fn try_lock(&self) -> Option<OrderedGuard<'_, T, L>> {
        match self.mutex.try_lock() {
            Ok(guard) => Some(Guard::new(guard)),
            Err(TryLockError::Poisoned(poisoned)) => Some(Guard::new(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A lock of level `L` with many readers or one writer.
#[derive(Debug)]
pub(crate) struct OrderedRw<T, L> {
    lock: RwLock<T>,
    level: PhantomData<L>,
}

impl<T: Default, L> Default for OrderedRw<T, L> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T, L> OrderedRw<T, L> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            lock: RwLock::new(value),
            level: PhantomData,
        }
    }
}

impl<T, L: Level> OrderedRw<T, L> {
    #[track_caller]
    pub(crate) fn read(&self) -> ReadGuard<'_, T, L> {
        Held::<L>::check(false);
        Guard::new(self.lock.read().unwrap_or_else(PoisonError::into_inner))
    }

    #[track_caller]
    pub(crate) fn write(&self) -> WriteGuard<'_, T, L> {
        Held::<L>::check(false);
        Guard::new(self.lock.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// As [`OrderedRw::write`], if the thread may hold others of this level: one thread at a time does so.
    #[track_caller]
    pub(crate) fn write_beside(&self) -> WriteGuard<'_, T, L> {
        Held::<L>::check(true);
        Guard::new(self.lock.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// `None` if somebody writes. Waits for nobody, so it may come out of order.
    pub(crate) fn try_read(&self) -> Option<ReadGuard<'_, T, L>> {
        match self.lock.try_read() {
            Ok(guard) => Some(Guard::new(guard)),
            Err(TryLockError::Poisoned(poisoned)) => Some(Guard::new(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn locks_in_order_are_taken() {
        let (saving, names) = (Ordered::<_, Saving>::new(1), Ordered::<_, Names>::new(2));
        let contents = [(); 2].map(|()| OrderedRw::<_, Content>::new(3));
        let memory = Ordered::<_, Memory>::new(4);
        for _ in 0..2 {
            let _saving = saving.lock();
            let _contents = contents.each_ref().map(OrderedRw::write_beside);
            let _names = names.lock();
            assert_eq!(*memory.lock(), 4);
            assert_eq!(*memory.lock(), 4);
        }
    }

    #[test]
    #[should_panic(expected = "locks out of order")]
    fn a_lock_out_of_order_panics_before_it_hangs() {
        let (content, names) = (OrderedRw::<_, Content>::new(1), Ordered::<_, Names>::new(2));
        let _names = names.lock();
        let _content = content.read();
    }

    #[test]
    #[should_panic(expected = "locks out of order")]
    fn a_second_lock_of_one_level_panics() {
        let locks = [(); 2].map(|()| Ordered::<_, Memory>::new(1));
        let _first = locks[0].lock();
        let _second = locks[1].lock();
    }
}
