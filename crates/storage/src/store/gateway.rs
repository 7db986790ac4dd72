//! A gateway's blocks, for reading.
//!
//! Invariant: it verifies what it gets, and never writes.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cid::Cid;

use super::{Block, BlockStore, BlockStoreExt, Lookup, MAX_BLOCK_BYTES, StoreError, check_bytes};
use crate::rpc::{Gateway, RpcError};

const PATIENCE: Duration = Duration::from_secs(15);

/// A gateway as a read-only store.
pub struct GatewayStore(Gateway);

impl GatewayStore {
    /// Reads from `gateway`.
    #[must_use]
    pub fn new(gateway: Gateway) -> Self {
        Self(gateway)
    }
}

fn unserved(error: RpcError) -> StoreError {
    match error {
        RpcError::Away(why) => StoreError::Away(why),
        error => StoreError::Transient(error.to_string()),
    }
}

fn refused() -> StoreError {
    StoreError::Permanent("a gateway is read from alone".to_owned())
}

#[async_trait]
impl BlockStore for GatewayStore {
    async fn put(&self, _: &[Block], _: Option<&Block>) -> Result<bool, StoreError> {
        Err(refused())
    }

    async fn lookup(&self, cid: &Cid, _: Lookup) -> Result<Bytes, StoreError> {
        let answer = self
            .0
            .block(&cid.to_string(), MAX_BLOCK_BYTES, PATIENCE)
            .await;
        match answer.map_err(unserved)? {
            Some(data) => check_bytes(cid, &data).map(|()| data),
            None => Err(StoreError::Missing(*cid)),
        }
    }

    async fn has(&self, cid: &Cid) -> Result<bool, StoreError> {
        match self.get(cid).await {
            Ok(_) => Ok(true),
            Err(StoreError::Missing(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn pin_with(
        &self,
        _: &Cid,
        _: Option<&Cid>,
        _: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        Err(refused())
    }

    async fn unpin(&self, _: &Cid) -> Result<(), StoreError> {
        Err(refused())
    }

    async fn pinned(&self, _: Option<&[Cid]>) -> Result<Vec<Cid>, StoreError> {
        Ok(Vec::new())
    }
}
