//! What every part of pxfs speaks of: small values, time as an argument, files that are whole or not there, and
//! text that others have written. It depends on no other part.

#[cfg(feature = "system")]
pub mod backoff;
#[cfg(feature = "system")]
pub mod clock;
#[cfg(feature = "system")]
pub mod durable;
pub mod text;
pub mod types;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also if a thread that held it has panicked: what is behind a mutex here is whole between any two
/// statements.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
