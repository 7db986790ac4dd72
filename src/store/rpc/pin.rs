//! Pinning at a node: never what is pinned already, and never without an end.
//!
//! Invariant: `pin/add` is sent only for a root that `pin/ls` does not list (`pin/update` to one that is
//! pinned does no harm). A node waits for a block
//! that it has not got, and does not say which: where a pin takes long, the tree is walked here, over
//! what the node has on its own disk, and what is missing is told.

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

/// How often a pin that takes long is asked for anew.
const TRIES: usize = 3;

/// A line of `pin/ls` with `stream`.
#[derive(Deserialize)]
pub(super) struct PinLine {
    #[serde(rename = "Cid")]
    pub(super) cid: String,
}

impl RpcStore {
    /// [`BlockStore::pin`].
    pub(super) async fn pin_whole(&self, root: &Cid, from: Option<&Cid>) -> Result<(), StoreError> {
        if let Some(from) = from.filter(|from| *from != root)
            && self.pin_from(root, Some(*from)).await?
        {
            return Ok(());
        }
        if !self.lists(&[*root]).await? {
            self.pin_from(root, None).await?;
        }
        Ok(())
    }

    /// False where `from` is not pinned: then nothing was done.
    async fn pin_from(&self, root: &Cid, from: Option<Cid>) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            let asked = self.ask_pin(root, from.as_ref());
            tokio::pin!(asked);
            tokio::select! {
                answer = &mut asked => return answer,
                () = sleep(self.patience.doubt) => {}
            }
            tokio::select! {
                answer = &mut asked => return answer,
                walked = self.walk(root, from) => walked?,
            }
            // Whole, or not known: the node has the word. Whole for a while, it may wait for a block
            // that has come since, and not hear of it.
            tokio::select! {
                answer = &mut asked => return answer,
                () = sleep(self.patience.doubt) => {}
            }
        }
        self.ask_pin(root, from.as_ref()).await
    }

    /// Looks here whether the tree is whole on the node's disk: what is missing or corrupt, if so.
    async fn walk(&self, root: &Cid, from: Option<Cid>) -> Result<(), StoreError> {
        // The walk ends with this call: it is of use to nobody else.
        let call = Arc::new(());
        let mut disk = OnDisk {
            store: self.clone(),
            handle: Handle::current(),
            call: Arc::downgrade(&call),
        };
        let root = *root;
        let walk = spawn_blocking(move || walk::check_whole(&root, from.as_ref(), &mut disk));
        match walk.await {
            Ok(Err(error @ (StoreError::Missing(_) | StoreError::Corrupt(..)))) => Err(error),
            _ => Ok(()),
        }
    }

    /// [`BlockStore::all_pinned`]: asked in one call.
    pub(super) async fn lists(&self, roots: &[Cid]) -> Result<bool, StoreError> {
        let texts: Vec<String> = roots.iter().map(Cid::to_string).collect();
        let mut args: Vec<(&str, &str)> = texts.iter().map(|text| ("arg", text.as_str())).collect();
        args.extend([("type", "recursive"), ("stream", "true")]);
        match self
            .client
            .call("pin/ls", &args, &[], ANSWER, self.patience.ask)
            .await
        {
            // What it does not list it refuses to list: nothing at all is no answer.
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

    /// False where `from` is not pinned. A node says so of a root that it was to pin and has, too: no
    /// error.
    async fn ask_pin(&self, root: &Cid, from: Option<&Cid>) -> Result<bool, StoreError> {
        let (root, from) = (root.to_string(), from.map(Cid::to_string));
        let (path, args) = match &from {
            Some(from) => (
                "pin/update",
                vec![("arg", from.as_str()), ("arg", &root), ("unpin", "false")],
            ),
            None => ("pin/add", vec![("arg", root.as_str())]),
        };
        let asked = self
            .client
            .search(path, &args, &[], ANSWER, self.patience.pin);
        match asked.await.and_then(whole) {
            Ok(_) => Ok(true),
            Err(RpcError::Failed(why)) if why.contains("'from' cid was not recursively pinned") => {
                Ok(false)
            }
            Err(RpcError::Failed(why)) if why.contains("'to' cid was already") => Ok(true),
            Err(error) => Err(plain(error)),
        }
    }
}

/// A walk's view of what the node has on its disk. For threads that may block.
struct OnDisk {
    store: RpcStore,
    handle: Handle,
    /// Lives as long as the call that began the walk.
    call: Weak<()>,
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
        let data = self.handle.block_on(self.store.local(node))?;
        links::links(node, &data)
    }

    fn has_leaf(&mut self, leaf: &Cid) -> Result<bool, StoreError> {
        self.go_on()?;
        self.handle.block_on(self.store.has(leaf))
    }
}
