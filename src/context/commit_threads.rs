//! The threads that commits run on: they give way to those that answer calls.
//!
//! Invariant: what a commit hashes, packs and sends is done on these threads alone, each of which is
//! nicer than the process; it goes on, more slowly, also on a machine whose processors are all busy.
//! Built by `ground`, used by `publishing`.

use anyhow::Context;
use tokio::runtime::{Builder, Handle, Runtime};

/// How much nicer than the rest of the process: on a busy processor a tenth of the share of a thread that
/// answers calls. With 5, a third, a write beside a commit waits twice as long for a processor (`benches/beside
/// sparse`); with the nicest or the idle class a lock that a commit holds, or a flush, might wait for ever.
const NICER: i32 = 10;
/// Threads that turn the network's answers into work: one would do.
const WORKERS: usize = 2;
/// Threads that read, hash and write at one time, of all commits.
const BLOCKING: usize = 64;

/// The threads of all commits of a mount. They end with it, without being waited for.
pub(crate) struct Commits {
    handle: Handle,
    /// Taken out by `drop` alone.
    runtime: Option<Runtime>,
}

impl Commits {
    /// # Errors
    /// The system has no more threads.
    pub(crate) fn begin() -> anyhow::Result<Self> {
        // A thread begins as nice as the one that made it, which may be a nicer one.
        let ours = rustix::process::getpriority_process(None).unwrap_or(0);
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING)
            .thread_name("commit")
            .on_thread_start(move || give_way(ours + NICER))
            .enable_all()
            .build()
            .context("no threads")?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Where a commit's tasks are spawned.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes the calling thread this nice; on Linux that is the affair of each thread.
fn give_way(niceness: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, niceness) {
        tracing::debug!(%error, "a commit's thread has the priority of the others");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::source::blocking;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn what_a_commit_computes_gives_way_to_who_answers_calls() {
        let mine = niceness();
        let wanted = (mine + NICER).min(19);
        let commits = Commits::begin().unwrap();
        let task = commits.handle().spawn(async {
            // As many threads at once, one made by another.
            let beside = (0..8).map(|_| {
                blocking(|| {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    niceness()
                })
            });
            let beside = futures::future::try_join_all(beside).await.unwrap();
            (niceness(), beside)
        });
        assert_eq!(task.await.unwrap(), (wanted, vec![wanted; 8]));
        assert_eq!(blocking(niceness).await.unwrap(), mine);
        // Also where asynchronous code lets go of it.
        drop(commits);
    }
}
