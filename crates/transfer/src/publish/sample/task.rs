//! When the sampler goes on: a step a minute, one after the other while it sweeps, and none before anything is published;
//! and what it and the publisher's worker tell one another.
//!
//! Invariant: a turn ends, whatever the node does. Spawned by `queue`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::Sampler;
use crate::publish::commit::Context;
use crate::publish::state;

/// Before the first look at what the node has, and between two.
const FIRST_SAMPLE: Duration = Duration::from_secs(10);
const SAMPLE: Duration = Duration::from_secs(60);

/// Between two while all is looked at and the node does not answer.
const SWEEP_PAUSE: Duration = Duration::from_secs(2);

/// How long a pin may take: the store gives up sooner on one that does not answer, and another one is tried.
const PIN: Duration = Duration::from_secs(6 * 3600);

/// What sampler and worker tell one another.
#[derive(Default)]
pub(in crate::publish) struct Signs {
    /// The sampler has found a loss: the next commit looks after it.
    pub(in crate::publish) lost: AtomicBool,
    /// The node has come back without the name record, perhaps.
    pub(in crate::publish) nameless: AtomicBool,
    /// The node lacks what this machine has published last, or may: it was another one before.
    pub(in crate::publish) bare: AtomicBool,
    /// A commit has missed blocks that it did not send: all is to be looked at.
    pub(in crate::publish) sweep: Notify,
    /// Something is published that may be the first.
    pub(in crate::publish) published: Notify,
    /// The worker is to look what there is to do.
    pub(in crate::publish) work: Notify,
}

impl Signs {
    /// What becomes so is told, and what is so no more is told no more, by a commit or a try of one.
    fn note_bare(&self, is_bare: bool) {
        if self.bare.swap(is_bare, Ordering::AcqRel) != is_bare {
            self.lost.store(true, Ordering::Release);
            self.work.notify_one();
        }
    }
}

/// Looks at some of what is published, again and again.
pub(in crate::publish) async fn run(context: Context, mut sampler: Sampler, signs: Arc<Signs>) {
    let mut pause = FIRST_SAMPLE;
    if signs.bare.load(Ordering::Acquire) {
        pause = turn(&context, &mut sampler, &signs).await;
    }
    loop {
        // Nothing can be asked for: no timer is to wake it.
        while !is_published(&context) {
            signs.published.notified().await;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = signs.sweep.notified() => sampler.sweep(),
        }
        pause = turn(&context, &mut sampler, &signs).await;
    }
}

/// Whether there is a head; so also where the journal cannot say.
fn is_published(context: &Context) -> bool {
    let head = state::known_head(&context.volume);
    !head.is_ok_and(|head| head.is_none_or(|head| head.root.is_none()))
}

/// A step, the pin where it has gone, and what is told of both; the pause before the next turn.
pub(in crate::publish) async fn turn(
    context: &Context,
    sampler: &mut Sampler,
    signs: &Signs,
) -> Duration {
    let stepped = timeout(SAMPLE, sampler.step(context)).await;
    // Also of a step that was cut off.
    signs.lost.fetch_or(sampler.found > 0, Ordering::AcqRel);
    if sampler.found > 0 || sampler.receipts.whole().is_some() {
        signs.work.notify_one();
    }
    match &stepped {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%error, "what is published cannot be looked at now"),
        Err(_) => tracing::debug!("the node does not answer whether it has what is published"),
    }
    match timeout(PIN, sampler.keep_pinned(context)).await {
        Ok(Ok(())) => signs.note_bare(sampler.is_bare()),
        Ok(Err(error)) => tracing::debug!(%error, "what is published cannot be pinned now"),
        Err(_) => tracing::debug!("the node does not end a pin of what is published"),
    }
    if sampler.take_returned() {
        signs.nameless.store(true, Ordering::Release);
        signs.work.notify_one();
    }
    match (sampler.is_sweeping(), stepped) {
        (false, _) => SAMPLE,
        (true, Ok(Ok(_))) => Duration::ZERO,
        (true, _) => SWEEP_PAUSE,
    }
}
