//! Pinning at a node: never what is pinned already, and never without end.
//!
//! Invariant: `pin/add` goes out only for a root that `pin/ls` does not list, even after an
//! unanswered one (`pin/update` to a pinned root is harmless). A pin may last while the node
//! reports more blocks. A node waits for a missing block without naming it: so if a pin is slow, we
//! walk the tree on the node's disk and report what is missing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use cid::Cid;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{ANSWER, RpcStore, lines, plain, unfinished};
use crate::rpc::RpcError;
use crate::rpc::client::whole;
use crate::store::walk::{self, Source};
use crate::store::{BlockStore, StoreError, links};
use pxfs_format::cid as form;

/// How often a stalled pin is requested again.
const TRIES: usize = 3;
/// The longest pin list: about half a million.
const PIN_LIST: usize = 64 << 20;
/// When a node that has lost us silently gives up a pin: a week. We give up once it has stalled for
/// long.
const LONGEST: &str = "168h";

/// A line of `pin/ls` with `stream`.
#[derive(Deserialize)]
struct PinLine {
    #[serde(rename = "Cid")]
    cid: String,
}

/// A line of `pin/add` with `progress`: every half second, changed or not.
#[derive(Deserialize)]
struct Progress {
    /// Blocks so far.
    #[serde(rename = "Progress", default)]
    blocks: u64,
    /// In the last line: the pinned roots.
    #[serde(rename = "Pins", default)]
    pins: Option<Vec<String>>,
}

struct Moves<'a> {
    blocks: AtomicU64,
    /// Called on progress.
    tell: &'a (dyn Fn() + Send + Sync),
}

/// Why a pin with all its blocks stalls.
#[derive(Clone, Copy)]
enum Still {
    /// It may wait for a block that has since arrived.
    Waits,
    /// It is compared with a tree that has lost blocks, and waits for those.
    Lost,
}

impl Moves<'_> {
    fn count(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Whether this line reports more than those before.
    fn take(&self, line: &[u8]) -> bool {
        let told = serde_json::from_slice::<Progress>(line).map_or(0, |line| line.blocks);
        let moves = told > self.blocks.fetch_max(told, Ordering::Relaxed);
        if moves {
            (self.tell)();
        }
        moves
    }
}

impl RpcStore {
    /// [`BlockStore::pin_with`].
    pub(super) async fn pin_whole(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        tell: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        if let Some(from) = from.filter(|from| *from != root)
            && self.pin_from(root, Some(*from), tell).await?
        {
            return Ok(());
        }
        if !self.lists(&[*root]).await? {
            self.pin_from(root, None, tell).await?;
        }
        Ok(())
    }

    /// False if it cannot be derived from `from`: nothing was done.
    async fn pin_from(
        &self,
        root: &Cid,
        from: Option<Cid>,
        tell: &(dyn Fn() + Send + Sync),
    ) -> Result<bool, StoreError> {
        for tries in 0..=TRIES {
            // The earlier one may have completed unseen.
            if tries > 0 && from.is_none() && self.lists(&[*root]).await? {
                return Ok(true);
            }
            let moves = Moves {
                blocks: AtomicU64::new(0),
                tell,
            };
            let asked = self.ask_pin(root, from.as_ref(), &moves);
            tokio::pin!(asked);
            let answer = match tries {
                TRIES => asked.await,
                _ => tokio::select! {
                    answer = &mut asked => answer,
                    still = self.stands_still(root, from, &moves) => match still? {
                        Still::Waits => continue,
                        Still::Lost => return Ok(false),
                    },
                },
            };
            match answer {
                // A connection from before the node's restart; or it has restarted since.
                Err(RpcError::Broken(_)) if tries == 0 => {}
                answer => return answer.map_err(plain),
            }
        }
        Err(unfinished("its pin does not come to an end"))
    }

    /// Returns if the tree is whole on the node's disk, or unknown, and the pin stalls all the
    /// same. Fails with what is missing or corrupt.
    async fn stands_still(
        &self,
        root: &Cid,
        from: Option<Cid>,
        moves: &Moves<'_>,
    ) -> Result<Still, StoreError> {
        sleep(self.patience.doubt).await;
        if !self.walk(root, from).await? {
            return Ok(Still::Lost);
        }
        loop {
            let before = moves.count();
            sleep(self.patience.doubt).await;
            if moves.count() == before {
                return Ok(Still::Waits);
            }
        }
    }

    /// Walks the tree on the node's disk; fails with what is missing or corrupt. False if it is
    /// whole, but the one it is compared with is not.
    async fn walk(&self, root: &Cid, from: Option<Cid>) -> Result<bool, StoreError> {
        // The walk ends with this call, because nobody else needs it.
        let call = Arc::new(());
        let mut disk = OnDisk {
            store: self.clone(),
            handle: Handle::current(),
            call: Arc::downgrade(&call),
            lacks: false,
        };
        let root = *root;
        let walk = spawn_blocking(move || {
            let walked = walk::check_whole(&root, from.as_ref(), &mut disk);
            (walked, disk.lacks)
        });
        match walk.await {
            Ok((Err(error @ (StoreError::Missing(_) | StoreError::Corrupt(..))), _)) => Err(error),
            Ok((Ok(()), lacks)) => Ok(!lacks),
            _ => Ok(true),
        }
    }

    pub(super) async fn listed(&self) -> Result<Vec<Cid>, StoreError> {
        let args = [("type", "recursive"), ("stream", "true")];
        let answer = self
            .client
            .call("pin/ls", &args, &[], PIN_LIST, 2 * self.patience.ask)
            .await;
        let listed = lines::<PinLine>(&answer.map_err(plain)?)?;
        // Others may have pinned what we would not.
        Ok(listed
            .into_iter()
            .filter_map(|line| form::parse(&line.cid).ok())
            .collect())
    }

    /// Those of `roots` that it lists: one call, then one by one if any is missing.
    pub(super) async fn listed_of(&self, roots: &[Cid]) -> Result<Vec<Cid>, StoreError> {
        if roots.is_empty() || self.lists(roots).await? {
            return Ok(roots.to_vec());
        }
        let mut listed = Vec::new();
        if roots.len() > 1 {
            for root in roots {
                if self.lists(&[*root]).await? {
                    listed.push(*root);
                }
            }
        }
        Ok(listed)
    }

    /// Whether it lists all of `roots`, in one call.
    async fn lists(&self, roots: &[Cid]) -> Result<bool, StoreError> {
        let texts: Vec<String> = roots.iter().map(Cid::to_string).collect();
        let mut args: Vec<(&str, &str)> = texts.iter().map(|text| ("arg", text.as_str())).collect();
        args.extend([("type", "recursive"), ("stream", "true")]);
        match self
            .client
            .call("pin/ls", &args, &[], ANSWER, self.patience.ask)
            .await
        {
            // It refuses to list what it lacks; an empty answer is invalid.
            Ok(answer) => {
                let listed = lines::<PinLine>(&answer)?;
                let listed: Vec<&str> = listed.iter().map(|line| line.cid.as_str()).collect();
                match listed == texts {
                    true => Ok(true),
                    false => Err(unfinished("its answer to `pin/ls` is of other roots")),
                }
            }
            Err(RpcError::Failed(why)) if why.contains("not pinned") => Ok(false),
            Err(error) => Err(plain(error)),
        }
    }

    /// False if it cannot be derived from `from`. A node says that also of a root that it has
    /// pinned: no error.
    async fn ask_pin(
        &self,
        root: &Cid,
        from: Option<&Cid>,
        moves: &Moves<'_>,
    ) -> Result<bool, RpcError> {
        let Some(from) = from else {
            return self.add_pin(root, moves).await.map(|()| true);
        };
        let (root, from) = (root.to_string(), from.to_string());
        let args = [("arg", from.as_str()), ("arg", &root), ("unpin", "false")];
        let asked = self
            .client
            .search("pin/update", &args, &[], ANSWER, self.patience.pin);
        match asked.await.and_then(whole) {
            Ok(_) => Ok(true),
            // This call reports no progress: for large differences the other one does.
            Err(RpcError::TimedOut(_)) => Ok(false),
            Err(error) if error.is_search_over() => Ok(false),
            Err(RpcError::Failed(why)) if why.contains("'from' cid was not recursively pinned") => {
                Ok(false)
            }
            Err(RpcError::Failed(why)) if why.contains("'to' cid was already") => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// `pin/add`, sent once.
    async fn add_pin(&self, root: &Cid, moves: &Moves<'_>) -> Result<(), RpcError> {
        let root = root.to_string();
        let args = [
            ("arg", root.as_str()),
            ("progress", "true"),
            ("timeout", LONGEST),
        ];
        let mut take = |line: &[u8]| moves.take(line);
        let followed = self
            .client
            .follow("pin/add", &args, ANSWER, self.patience.pin, &mut take);
        let last = followed.await.and_then(whole)?;
        let pins = serde_json::from_slice::<Progress>(&last).map_or(None, |line| line.pins);
        match pins.is_some_and(|pins| pins.contains(&root)) {
            true => Ok(()),
            false => Err(RpcError::Transport(
                "its answer to `pin/add` does not say that it is pinned".into(),
            )),
        }
    }
}

/// A walk's view of the node's disk. Blocks.
struct OnDisk {
    store: RpcStore,
    handle: Handle,
    /// Lives as long as the call that began the walk.
    call: Weak<()>,
    /// Whether a node was missing or wrong.
    lacks: bool,
}

impl OnDisk {
    fn go_on(&self) -> Result<(), StoreError> {
        match self.call.strong_count() {
            0 => Err(unfinished("nobody waits for it any more")),
            _ => Ok(()),
        }
    }
}

impl Source for OnDisk {
    fn links(&mut self, node: &Cid) -> Result<Vec<Cid>, StoreError> {
        self.go_on()?;
        let data = self.handle.block_on(self.store.local(node));
        self.lacks |= matches!(data, Err(StoreError::Missing(_) | StoreError::Corrupt(..)));
        links::links(node, &data?)
    }

    fn has_leaf(&mut self, leaf: &Cid) -> Result<bool, StoreError> {
        self.go_on()?;
        self.handle.block_on(self.store.has(leaf))
    }
}
