//! The file system against a reference in memory, and its promises one by one.

mod access;
mod acl;
mod background;
mod charged;
mod copies;
mod core;
mod costs;
mod crash;
#[path = "../../../../tests/shared/dice.rs"]
pub(crate) mod dice;
mod follow;
mod gaps;
mod holes;
mod hostile;
mod killed;
mod late_comers;
mod locks;
mod memory;
mod meter;
mod model;
mod pages;
mod planted;
mod promises;
#[path = "../../../../tests/model/mod.rs"]
mod reference;
mod refused;
mod removed;
mod rewrites;
mod rig;
mod room;
mod settled;
mod spool;
#[path = "../../../../tests/shared/pattern.rs"]
pub(crate) mod text;

/// Keeps `volume` durable until it is stopped, as a mount does.
fn keep_durable(volume: &super::Volume) {
    use std::sync::atomic::Ordering;
    let (called, calls) = std::sync::mpsc::channel();
    volume.on_change(move || called.send(()).unwrap_or_default());
    while !volume.stopped.load(Ordering::Acquire) {
        if calls
            .recv_timeout(std::time::Duration::from_millis(10))
            .is_ok()
        {
            volume.keep_durable();
        }
    }
    volume.end_keeping();
}

thread_local! {
    static THREADLESS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether this thread is to get no other.
pub(super) fn lacks_threads() -> bool {
    THREADLESS.get()
}

/// From now on this thread gets no other.
fn refuse_threads() {
    THREADLESS.set(true);
}
