//! A token's first document: usage 0, no root, so that an unused token can sync.
//!
//! Invariant: published only if the name has no record and the chain took no document in this
//! epoch; so retries are always safe, and make it durable.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::chain::TokenInfo;
use crate::clock::Clock;
use crate::names::NameError;
use crate::names::key::NameKey;
use crate::names::record::{BTNS_SEQUENCE, Network, Record, ipns_sequence};
use crate::node::NodeParts;
use crate::pack::usage::{self, Usage};
use crate::store::BlockStoreExt;
use crate::types::VolumeKey;

/// A record's life: one year.
const LIFE_S: i64 = 365 * 86_400;
/// How long caches may use it: five minutes.
const TTL: Duration = Duration::from_secs(300);

/// Publishes the first document of `token` under `key` if there is none; true if it did.
///
/// # Errors
/// The node refuses, or does not answer.
pub(crate) async fn publish(
    node: &NodeParts,
    clock: &dyn Clock,
    volume: VolumeKey,
    token: &TokenInfo,
    key: &NameKey,
) -> anyhow::Result<bool> {
    let name = key.name();
    if token.sequence.is_some() {
        return Ok(false);
    }
    match node.names.resolve(&name).await {
        Err(NameError::Missing(_)) => {}
        Err(fault) => return Err(fault.into()),
        Ok(_) => return Ok(false),
    }
    let now_s = clock.wall_s();
    let document = Usage {
        volume,
        quota: token.size_bytes,
        usage: 0,
        uploads: 0,
        cid: None,
        root: None,
        sequence: 0,
        updated_s: now_s,
    };
    let data = Bytes::from(document.sign(key.signing_key())?);
    let block = usage::block(&data)?;
    let cid = block.cid;
    node.store.put_many(&[block]).await?;
    node.store.pin(&cid, None).await?;
    let record = Record {
        network: node.network,
        cid,
        sequence: match node.network {
            Network::Btfs => BTNS_SEQUENCE,
            Network::Ipfs => ipns_sequence(0, 0).unwrap_or(0),
        },
        end_of_life: Timestamp::from_second(now_s.cast_signed().saturating_add(LIFE_S))?,
        ttl_ns: u64::try_from(TTL.as_nanos()).unwrap_or(u64::MAX),
    };
    node.names.publish(&name, &record.sign(key)).await?;
    tracing::info!(token = %token.id, name, "published the first document");
    Ok(true)
}
