//! The threads of commits, which yield to those that answer calls.
//!
//! Invariant: a commit hashes, packs and sends only on these threads, each nicer than the process;
//! it progresses, slowly, even on a busy machine.

use anyhow::Context;
use tokio::runtime::{Builder, Handle, Runtime};

/// How much nicer than the process: a tenth of a call thread's share of a busy processor. With 5, a
/// third, a write beside a commit waits twice as long (`benches/beside sparse`); at the nicest, or
/// in the idle class, a lock held by a commit or a flush might wait for ever.
const NICER: i32 = 10;
/// Threads for network answers; one would do.
const WORKERS: usize = 2;
/// Concurrent reading, hashing and writing threads, of all commits.
const BLOCKING: usize = 64;

/// All commits' threads. They end with the mount, unawaited.
pub(crate) struct Commits {
    handle: Handle,
    /// Only `drop` takes it.
    runtime: Option<Runtime>,
}

impl Commits {
    /// # Errors
    /// The system has no more threads.
    pub(crate) fn begin() -> anyhow::Result<Self> {
        // A thread inherits its creator's niceness.
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

/// Sets the calling thread's niceness, which Linux has per thread.
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
        // Also if asynchronous code drops it.
        drop(commits);
    }
}
