//! The gateway that an IPFS node has beside its RPC: leaves are read there while that goes well, since it gives them
//! in greater pieces than `block/get` does, for half of the node's time.
//!
//! Invariant: it is a shorter way and nothing else. It is used once it has given a block that was verified; what it
//! does not give, whole and in time, is asked of the RPC, and it is left alone for [`REST`] then. Whether the node
//! has a block is not asked here: at that address another node may be. Called by [`super`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use tokio::time::Instant;

use crate::rpc::{Client, Gateway};
use crate::store::{MAX_BLOCK_BYTES, check_bytes};
use pxfs_format::cid::{self as form, Kind};

/// How long it may take for a block: the RPC has its time afterwards.
const SOON: Duration = Duration::from_secs(2);
/// How long it is left alone.
const REST: Duration = Duration::from_secs(60);
/// Blocks that are remembered as given.
const GIVEN: usize = 64;

/// A node's gateway, as far as is known.
pub(super) struct Beside(Mutex<Held>);

struct Held {
    state: State,
    /// What it gave last, which nobody has verified here.
    given: VecDeque<Cid>,
}

enum State {
    /// Not before then.
    Closed(Option<Instant>),
    Looking,
    Open(Arc<Gateway>),
}

/// What came of asking it.
pub(super) enum Answer {
    Given(Bytes),
    /// It says that it has not got the block.
    Lacks,
    /// It was not asked, or has failed.
    Nothing,
}

/// Asked, and not answered yet. Who does not wait for the answer has waited for too long.
struct Asked<'a>(Option<&'a Beside>);

impl Beside {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Held {
            state: State::Closed(None),
            given: VecDeque::new(),
        })))
    }

    /// What it has for `cid`, not verified. Where it is not known yet it is looked for, which nobody waits for.
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

    /// It is left alone for a while.
    pub(super) fn close(&self, why: &str) {
        tracing::debug!(why, "blocks come by the RPC alone for a while");
        self.lock().state = State::Closed(Some(Instant::now() + REST));
    }

    /// Whether it gave `cid` a moment ago: who asks again has found it to be something else.
    pub(super) fn has_given(&self, cid: &Cid) -> bool {
        self.lock().given.contains(cid)
    }

    /// The gateway, where it is open; where it is time to, the search for it begins, with `cid` to try it by.
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

/// The gateway of the node, if it has `cid` and gives it as it is.
async fn find(client: &Client, cid: &Cid) -> Option<Gateway> {
    let gateway = Gateway::beside(client).await.ok()??;
    let held = gateway.held(&cid.to_string(), MAX_BLOCK_BYTES, SOON).await;
    let data = held.ok()??;
    check_bytes(cid, &data).ok().map(|()| gateway)
}
