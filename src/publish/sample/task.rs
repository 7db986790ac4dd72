//! When the sampler goes on: a step a minute, one after the other while it sweeps; and what it and the
//! publisher's worker tell one another.
//!
//! Invariant: a turn ends, whatever the node does. Spawned by `queue`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Sampler;
use crate::publish::commit::Context;

/// Before the first look at what the node has, and between two.
const FIRST_SAMPLE: Duration = Duration::from_secs(10);
const SAMPLE: Duration = Duration::from_secs(60);

/// Between two while all is looked at and the node does not answer.
const SWEEP_PAUSE: Duration = Duration::from_secs(2);

/// What sampler and worker tell one another.
#[derive(Default)]
pub(in crate::publish) struct Signs {
    /// The sampler has found a loss: the next commit looks after it.
    pub(in crate::publish) lost: AtomicBool,
    /// The node has come back without the name record, perhaps.
    pub(in crate::publish) nameless: AtomicBool,
    /// A commit has missed blocks that it did not send: all is to be looked at.
    pub(in crate::publish) sweep: Notify,
}

/// Looks at some of what is published, again and again.
pub(in crate::publish) async fn run(context: Context, mut sampler: Sampler, signs: Arc<Signs>) {
    let mut pause = FIRST_SAMPLE;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = signs.sweep.notified() => sampler.sweep(),
        }
        pause = turn(&context, &mut sampler, &signs).await;
    }
}

/// A step, and what is told of it; the pause before the next one.
pub(in crate::publish) async fn turn(
    context: &Context,
    sampler: &mut Sampler,
    signs: &Signs,
) -> Duration {
    let mut pause = SAMPLE;
    match timeout(SAMPLE, sampler.step(context)).await {
        Ok(Ok(found)) => {
            if found > 0 {
                signs.lost.store(true, Ordering::Release);
            }
            if sampler.take_returned() {
                signs.nameless.store(true, Ordering::Release);
            }
            if sampler.is_sweeping() {
                pause = Duration::ZERO;
            }
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "what is published cannot be looked at now");
            if sampler.is_sweeping() {
                pause = SWEEP_PAUSE;
            }
        }
        Err(_) => tracing::debug!("the node does not answer whether it has what is published"),
    }
    pause
}
