//! The socket's server.
//!
//! Invariant: it refuses peers other than the daemon's user and root; it drops a peer that is
//! silent or does not read after [`PATIENCE`], earlier if many are silent, so that they delay
//! nobody. Connections are independent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pxfs_base::lock;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::{Amount, Reply, Request, Step, frame};
use crate::exit::{Exit, Failure};

/// How long a peer may take per frame.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a running request reports.
const BEAT: Duration = Duration::from_millis(500);
/// Concurrent requests; more wait.
const AT_ONCE: usize = 32;
/// Silent peers; the oldest beyond that is dropped.
const SILENT: usize = 64;
/// Concurrent connections; more wait.
const SEATS: usize = SILENT + 2 * AT_ONCE;
/// The longest request, bytes.
const LONGEST_REQUEST: usize = 64 * 1024;

/// What answers requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Runs to its end even if the peer leaves, which [`Progress::peer_left`]
    /// tells.
    async fn handle(
        &self,
        request: Request,
        progress: &Progress,
    ) -> Result<serde_json::Value, Failure>;

    /// Called once the answer was sent, or could not be.
    fn replied(&self) {}
}

/// Sends a handler's progress with the next beat, and tells it that the peer has left.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    step: Arc<Mutex<Step>>,
    left: Arc<watch::Sender<bool>>,
}

impl Progress {
    /// Reports progress.
    pub fn set(&self, what: &str, amount: Amount) {
        let mut step = lock(&self.step);
        what.clone_into(&mut step.what);
        step.amount = amount;
    }

    /// The last report.
    #[must_use]
    pub fn get(&self) -> Step {
        lock(&self.step).clone()
    }

    /// Returns when the peer has left.
    pub async fn peer_left(&self) {
        // Its sender lives as long.
        drop(self.left.subscribe().wait_for(|left| *left).await);
    }
}

/// Serves `listener` until its task is dropped.
pub async fn serve(listener: UnixListener, handler: Arc<dyn Handler>) {
    let uid = rustix::process::geteuid().as_raw();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let seats = Arc::new(Semaphore::new(SEATS));
    let mut silent: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "socket: accept");
                tokio::time::sleep(BEAT).await;
                continue;
            }
        };
        silent.retain(|peer| !peer.is_finished());
        if silent.len() >= SILENT
            && let Some(first) = silent.pop_front()
        {
            first.abort();
        }
        let (handler, places) = (Arc::clone(&handler), Arc::clone(&places));
        let peer = tokio::spawn(listen((stream, seat), uid, handler, places));
        silent.push_back(peer.abort_handle());
    }
}

/// Reads a request, and answers it in a task that outlives this one.
async fn listen(
    (mut stream, seat): (UnixStream, OwnedSemaphorePermit),
    uid: u32,
    handler: Arc<dyn Handler>,
    places: Arc<Semaphore>,
) {
    let request = match timeout(PATIENCE, frame::read_async(&mut stream, LONGEST_REQUEST)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => return tracing::debug!(%error, "socket: a peer went away"),
        Err(_) => return tracing::debug!("socket: a peer asked nothing"),
    };
    tokio::spawn(async move {
        let _seat = seat;
        let Ok(_place) = places.acquire().await else {
            return;
        };
        if let Err(error) = converse(stream, request, uid, handler).await {
            tracing::debug!(%error, "socket: a peer went away");
        }
    });
}

async fn converse(
    mut stream: UnixStream,
    request: Request,
    uid: u32,
    handler: Arc<dyn Handler>,
) -> std::io::Result<()> {
    // Checked at each request, because the folder may have been opened up since.
    let peer = stream.peer_cred()?.uid();
    if peer != uid && peer != 0 {
        let refused = Reply::Failed {
            error: "this drive belongs to another user: run the command as that user or as root"
                .to_owned(),
            exit: Exit::Failure,
        };
        return send(&mut stream, &refused).await;
    }
    let progress = Progress::default();
    // Its own task, because a leaving peer must not stop a transaction midway. Work that may stop
    // listens to `Progress::peer_left`.
    let mut work = tokio::spawn({
        let (progress, handler) = (progress.clone(), Arc::clone(&handler));
        async move { handler.handle(request, &progress).await }
    });
    let outcome = loop {
        match timeout(BEAT, &mut work).await {
            Ok(outcome) => break outcome,
            Err(_) => {
                let beat = Reply::Progress(progress.get());
                if send(&mut stream, &beat).await.is_err() {
                    progress.left.send_replace(true);
                    break work.await;
                }
            }
        }
    };
    let reply = match outcome {
        Ok(Ok(answer)) => Reply::Done { answer },
        Ok(Err(Failure { exit, message })) => Reply::Failed {
            error: message,
            exit,
        },
        Err(_) => Reply::Failed {
            error: "the request failed inside pxfs: see the daemon's log".to_owned(),
            exit: Exit::Failure,
        },
    };
    let sent = send(&mut stream, &reply).await;
    handler.replied();
    sent
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> std::io::Result<()> {
    timeout(PATIENCE, frame::write_async(stream, reply)).await?
}
