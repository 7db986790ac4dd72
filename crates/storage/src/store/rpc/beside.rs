//! The gateway beside an IPFS node's RPC: leaves are read there while that works, because its
//! pieces are larger than those of `block/get` and cost half of the node's time.
//!
//! Invariant: only a shortcut. It is used once it has given a verified block; whatever it does not
//! give, whole and in time, comes from the RPC, and it rests for [`REST`]. Existence is not checked
//! here, because another node may be at that address.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use tokio::time::Instant;

use crate::rpc::{Client, Gateway};
use crate::store::{MAX_BLOCK_BYTES, check_bytes};
use pxfs_format::cid::{self as form, Kind};

/// Its timeout for a block; the RPC's follows.
const SOON: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(60);
/// Blocks remembered as given.
const GIVEN: usize = 64;

/// A node's gateway, as far as known.
pub(super) struct Beside(Mutex<Held>);

struct Held {
    state: State,
    /// Its last blocks, which nobody has verified here.
    given: VecDeque<Cid>,
}

enum State {
    /// Until then.
    Closed(Option<Instant>),
    Looking,
    Open(Arc<Gateway>),
}

pub(super) enum Answer {
    Given(Bytes),
    /// It says that it lacks the block.
    Lacks,
    /// Not asked, or failed.
    Nothing,
}

/// A question in progress. A caller that drops it has waited too long.
struct Asked<'a>(Option<&'a Beside>);

impl Beside {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Held {
            state: State::Closed(None),
            given: VecDeque::new(),
        })))
    }

    /// What it has for `cid`, unverified. If still unknown, it is searched in the background.
    pub(super) async fn leaf(self: &Arc<Self>, client: &Client, cid: &Cid) -> Answer {
        if form::kind(cid) != Ok(Kind::Leaf) {
            return Answer::Nothing;
        }
        let Some(gateway) = self.open(client, cid) else {
            return Answer::Nothing;
        };
        let mut asked = Asked(Some(self));
        let answer = gateway.held(&cid.to_string(), MAX_BLOCK_BYTES, SOON).await;
        asked.0 = None;
        match answer {
            Ok(Some(data)) => {
                let mut held = self.lock();
                held.given.push_back(*cid);
                if held.given.len() > GIVEN {
                    held.given.pop_front();
                }
                Answer::Given(data)
            }
            Ok(None) => Answer::Lacks,
            Err(error) => {
                self.close(&error.to_string());
                Answer::Nothing
            }
        }
    }

    pub(super) fn close(&self, why: &str) {
        tracing::debug!(why, "blocks come by the RPC alone for a while");
        self.lock().state = State::Closed(Some(Instant::now() + REST));
    }

    /// Whether it just gave `cid`: a caller that asks again found it wrong.
    pub(super) fn has_given(&self, cid: &Cid) -> bool {
        self.lock().given.contains(cid)
    }

    /// The gateway if open; starts a due search for it, to be tried with `cid`.
    fn open(self: &Arc<Self>, client: &Client, cid: &Cid) -> Option<Arc<Gateway>> {
        let mut held = self.lock();
        match &held.state {
            State::Open(gateway) => return Some(Arc::clone(gateway)),
            State::Closed(until) if until.is_none_or(|until| until <= Instant::now()) => {}
            State::Closed(_) | State::Looking => return None,
        }
        held.state = State::Looking;
        drop(held);
        let (me, client, cid) = (Arc::clone(self), client.clone(), *cid);
        tokio::spawn(async move {
            match find(&client, &cid).await {
                Some(gateway) => me.lock().state = State::Open(Arc::new(gateway)),
                None => me.close("no gateway of the node gives them"),
            }
        });
        None
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(beside) = self.0 {
            beside.close("the gateway was not waited for");
        }
    }
}

/// The node's gateway, if it gives a valid `cid`.
async fn find(client: &Client, cid: &Cid) -> Option<Gateway> {
    let gateway = Gateway::beside(client).await.ok()??;
    let held = gateway.held(&cid.to_string(), MAX_BLOCK_BYTES, SOON).await;
    let data = held.ok()??;
    check_bytes(cid, &data).ok().map(|()| gateway)
}
