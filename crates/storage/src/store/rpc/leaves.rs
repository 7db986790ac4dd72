//! Many leaves in one call: a node's `cat` returns all their bytes in sequence.
//!
//! Invariant: each leaf is compared with its CID; a node that lacks one gives none.

use bytes::Bytes;
use cid::Cid;

use super::{RpcStore, plain, unfinished};
use crate::store::{BlockStoreExt, StoreError, check_bytes, some_at_once};

/// The most leaves, and bytes, per call.
const MOST_LEAVES: usize = 128;
const MOST_BYTES: u64 = 8 << 20;

impl RpcStore {
    /// See [`crate::store::BlockStore::get_leaves`]. Not from the node's network.
    pub(super) async fn cat(&self, leaves: &[(Cid, u64)]) -> Result<Vec<Bytes>, StoreError> {
        let bytes: u64 = leaves.iter().map(|(_, size)| size).sum();
        let fits = (2..=MOST_LEAVES).contains(&leaves.len()) && bytes <= MOST_BYTES;
        if !fits {
            return some_at_once(leaves.iter().map(|(cid, _)| self.get(cid)).collect()).await;
        }
        let texts: Vec<String> = leaves.iter().map(|(cid, _)| cid.to_string()).collect();
        let mut args: Vec<(&str, &str)> = texts.iter().map(|text| ("arg", text.as_str())).collect();
        args.push(("offline", "true"));
        let most = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut rest = self
            .client
            .call("cat", &args, &[], most, self.patience.ask)
            .await
            .map_err(plain)?;
        let mut found = Vec::with_capacity(leaves.len());
        for (cid, size) in leaves {
            let size = usize::try_from(*size).unwrap_or(usize::MAX);
            if rest.len() < size {
                return Err(unfinished("its answer to `cat` is too short"));
            }
            let data = rest.split_to(size);
            check_bytes(cid, &data)?;
            found.push(data);
        }
        Ok(found)
    }
}
