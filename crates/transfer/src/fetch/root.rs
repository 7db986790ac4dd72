//! The root of a volume: where a mount begins.

use cid::Cid;
use tokio::time::Instant;

use super::source::{Source, damaged};
use crate::fs::FsError;
use crate::pack::header::Header;
use crate::pack::root::Root;
use crate::store::Block;
use crate::types::VolumeKey;

/// The root `cid` and its header; both are of `volume` and of a version that is known here.
pub(super) async fn load(
    source: &Source,
    cid: &Cid,
    volume: &VolumeKey,
    deadline: Instant,
) -> Result<(Root, Header), FsError> {
    let data = source.node(cid, deadline).await?;
    let root = Root::decode(&Block { cid: *cid, data }).map_err(|error| damaged(&error))?;
    if root.volume != *volume {
        let found = root.volume;
        return Err(FsError::Damaged(format!(
            "root {cid} is of token {} of {} on chain {}, epoch {}",
            found.token.token, found.token.contract, found.token.chain_id, found.epoch
        )));
    }
    let data = source.block(&root.header.cid, deadline).await?;
    let header = Header::decode(&Block {
        cid: root.header.cid,
        data,
    });
    Ok((root, header.map_err(|error| damaged(&error))?))
}
