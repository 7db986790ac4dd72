//! The ledger of a real contract: a wallet's tokens and what each grants, in any dialect.
//!
//! Invariant: a snapshot is of one block. It costs two requests, however many tokens, if the wallet
//! has the same ones as before; one if nothing has changed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{Block, Filter, Log};
use alloy::sol_types::SolCall;
use tokio::sync::OnceCell;

use self::follow::Followed;
pub use self::follow::Reading;
use self::owned::Owned;
use super::contract::{PxSync, PxV1, PxV2};
use super::dialect::Dialect;
use super::endpoint::{Endpoint, LogsFault};
use super::{Accounting, ChainError, Snapshot, TokenInfo};
use pxfs_base::types::TokenId;

mod additive;
mod follow;
mod owned;
#[cfg(test)]
pub(super) mod tests;

/// Tokens per request, and the most tokens of a wallet.
const PAGE: u64 = 100;
const TOKENS_MAX: u64 = 10_000;

/// A package that can be minted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its number, for `mint`.
    pub id: u64,
    /// Its name, such as `5GB`.
    pub name: String,
    /// In wei.
    pub price: U256,
    /// Quota, bytes.
    pub size_bytes: u64,
    /// Upload units; `None` if the contract has none.
    pub uploads: Option<u64>,
    /// Whether it can be bought now.
    pub on_sale: bool,
}

/// Upload units for sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPackage {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Price in wei.
    pub price: U256,
    /// Upload units.
    pub uploads: u64,
    /// Whether it can be bought now.
    pub on_sale: bool,
}

/// The logs, or why there are none.
type GivenLogs = Result<Vec<Log>, LogsFault>;

struct Head {
    number: u64,
    at: BlockId,
    timestamp_s: u64,
}

/// One contract's ledger, as one owner sees it.
#[derive(Clone, Debug)]
pub struct ContractLedger {
    endpoint: Endpoint,
    contract: Address,
    owner: Address,
    dialect: Arc<OnceCell<Dialect>>,
    /// The dialect that an earlier process detected.
    spoke: Option<Dialect>,
    /// Who reports the usage of `px-v1` tokens.
    reported: Arc<OnceCell<Accounting>>,
    /// Tokens found on a contract that does not list them.
    found: Arc<Owned>,
    /// A listing contract's last number of tokens.
    count: Arc<AtomicU64>,
    /// The last check.
    followed: Arc<Followed>,
    /// Names given by the user, for contracts without names.
    names: Arc<HashMap<TokenId, String>>,
}

impl ContractLedger {
    /// The ledger of `contract` for `owner`'s tokens; sends nothing yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, contract: Address, owner: Address) -> Self {
        Self {
            endpoint,
            contract,
            owner,
            dialect: Arc::default(),
            spoke: None,
            reported: Arc::default(),
            found: Arc::default(),
            count: Arc::default(),
            followed: Arc::default(),
            names: Arc::default(),
        }
    }

    /// Adds these tokens' names, for contracts without names.
    #[must_use]
    pub fn with_names(self, names: impl Iterator<Item = (TokenId, String)>) -> Self {
        Self {
            names: Arc::new(names.collect()),
            ..self
        }
    }

    /// Assumes the dialect that an earlier process detected, until asked.
    #[must_use]
    pub fn that_spoke(self, dialect: Option<Dialect>) -> Self {
        Self {
            spoke: dialect,
            ..self
        }
    }

    /// Stores found tokens in `folder` between runs. (Only for contracts that do not list a
    /// wallet's tokens; nothing is lost with the file.)
    #[must_use]
    pub fn remember(self, chain_id: u64, folder: &Path) -> Self {
        let file = format!("{chain_id}-{:#x}-{:#x}.json", self.contract, self.owner);
        Self {
            found: Arc::new(Owned::kept(folder.join(file))),
            ..self
        }
    }

    /// As [`ContractLedger::remember`] with one `file`, at another pace.
    #[cfg(test)]
    fn at_pace(self, file: std::path::PathBuf, pace: owned::Pace) -> Self {
        Self {
            found: Arc::new(Owned::kept(file).with_pace(pace)),
            ..self
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The token contract.
    #[must_use]
    pub fn contract(&self) -> Address {
        self.contract
    }

    /// The contract's dialect, asked once.
    ///
    /// # Errors
    /// As [`Dialect::of`].
    pub async fn dialect(&self) -> Result<Dialect, ChainError> {
        let ask = || Dialect::of(&self.endpoint, self.contract);
        self.dialect.get_or_try_init(ask).await.copied()
    }

    /// The dialect, if already known to this or an earlier process.
    #[must_use]
    pub fn known_dialect(&self) -> Option<Dialect> {
        self.dialect.get().copied().or(self.spoke)
    }

    /// The accounting of stored bytes, if known.
    #[must_use]
    pub fn known_accounting(&self) -> Option<Accounting> {
        match self.known_dialect()? {
            Dialect::PxSync => Some(Accounting::Absolute),
            Dialect::PxV2 => Some(Accounting::Additive),
            Dialect::PxV1 => self.reported.get().copied(),
        }
    }

    /// All packages, by ascending id, on sale or not.
    ///
    /// # Errors
    /// [`ChainError::Transient`] or [`ChainError::Permanent`].
    pub async fn packages(&self) -> Result<Vec<Package>, ChainError> {
        let latest = BlockId::latest();
        let (endpoint, contract) = (&self.endpoint, self.contract);
        Ok(match self.dialect().await? {
            Dialect::PxSync => {
                let call = PxSync::getAllPackagesCall {};
                let all = endpoint.call(contract, &call, latest).await?;
                all.into_iter().map(package).collect()
            }
            Dialect::PxV2 => {
                let call = PxV2::getAllPackagesCall {};
                let all = endpoint.call(contract, &call, latest).await?;
                all.into_iter().map(Package::from).collect()
            }
            Dialect::PxV1 => {
                let call = PxV1::getAllPackagesCall {};
                match endpoint.call(contract, &call, latest).await {
                    Ok(all) => all.into_iter().map(Package::from).collect(),
                    // The oldest do not list them.
                    Err(ChainError::Reverted(_)) => self.each_package().await?,
                    Err(fault) => return Err(fault),
                }
            }
        })
    }

    /// All upload packages of a `px-v2` contract.
    ///
    /// # Errors
    /// [`ChainError::Transient`] or [`ChainError::Permanent`].
    pub async fn upload_packages(&self) -> Result<Vec<UploadPackage>, ChainError> {
        let call = PxV2::getAllBandwidthPackagesCall {};
        let latest = BlockId::latest();
        let all = self.endpoint.call(self.contract, &call, latest).await?;
        let all = all.into_iter().map(|known| UploadPackage {
            id: saturate(known.id),
            name: pxfs_base::text::name(&known.name),
            price: known.price,
            uploads: saturate(known.bandwidth),
            on_sale: !known.active.is_zero(),
        });
        Ok(all.collect())
    }

    /// The newest block and chain time: its timestamp, or on a chain that mines on demand that of a
    /// block mined now. The same request gets the logs of `filter`.
    async fn newest(
        &self,
        filter: Option<&Filter>,
    ) -> Result<(Head, Option<GivenLogs>), ChainError> {
        let fault = |fault| self.endpoint.fault(fault);
        let idle = self.endpoint.is_idle().await?;
        let client = self.endpoint.provider().client();
        let mut batch = BatchRequest::new(client);
        let latest = batch.add_call("eth_getBlockByNumber", &("latest", false));
        let latest = latest.map_err(fault)?;
        let pending = match idle {
            true => Some(
                batch
                    .add_call("eth_getBlockByNumber", &("pending", false))
                    .map_err(fault)?,
            ),
            false => None,
        };
        let logs = match filter {
            Some(filter) => Some(batch.add_call("eth_getLogs", &(filter,)).map_err(fault)?),
            None => None,
        };
        batch.send().await.map_err(fault)?;
        let latest: Block = latest.await.map_err(fault)?;
        let timestamp = match pending {
            Some(pending) => {
                let pending: Block = pending.await.map_err(fault)?;
                pending.header.timestamp.max(latest.header.timestamp)
            }
            None => latest.header.timestamp,
        };
        let logs = match logs {
            Some(logs) => {
                let logs: Result<_, _> = logs.await;
                Some(logs.map_err(|fault| self.endpoint.logs_fault(fault)))
            }
            None => None,
        };
        let head = Head {
            number: latest.header.number,
            at: BlockId::hash(latest.header.hash),
            timestamp_s: timestamp,
        };
        Ok((head, logs))
    }

    /// All tokens of the wallet in a block.
    async fn all(&self, dialect: Dialect, head: &Head) -> Result<Vec<TokenInfo>, ChainError> {
        match dialect {
            Dialect::PxSync => self.owned(head.at).await,
            Dialect::PxV2 | Dialect::PxV1 => {
                self.owned_additive(dialect, head.number, head.at).await
            }
        }
    }

    /// Requests as many pages at once as there were last time.
    async fn owned(&self, block: BlockId) -> Result<Vec<TokenInfo>, ChainError> {
        let mut tokens = Vec::new();
        let mut page = 0;
        let mut pages = self.count.load(Ordering::Relaxed) / PAGE + 1;
        while page * PAGE <= TOKENS_MAX {
            let calls = (page..page + pages).map(|page| {
                let call = PxSync::tokensOfCall {
                    owner: self.owner,
                    from: U256::from(page * PAGE),
                    limit: U256::from(PAGE),
                };
                call.abi_encode().into()
            });
            let calls: Vec<Bytes> = calls.collect();
            let mut is_last = false;
            for answer in self
                .endpoint
                .call_many(self.contract, &calls, block)
                .await?
            {
                let found = self
                    .endpoint
                    .read::<PxSync::tokensOfCall>(self.contract, &answer?)?;
                is_last = (found.len() as u64) < PAGE;
                tokens.extend(found.into_iter().map(token));
            }
            if is_last {
                self.count.store(tokens.len() as u64, Ordering::Relaxed);
                tokens.sort_unstable_by_key(|token: &TokenInfo| token.id);
                return Ok(tokens);
            }
            page += pages;
            pages = page;
        }
        Err(ChainError::Permanent(format!(
            "{} owns more than {TOKENS_MAX} tokens of {}",
            self.owner, self.contract
        )))
    }
}

impl ContractLedger {
    /// All tokens of the wallet, in one block.
    pub async fn snapshot(&self) -> Result<Snapshot, ChainError> {
        let dialect = self.dialect().await?;
        let (head, _) = self.newest(None).await?;
        Ok(Snapshot {
            block: head.number,
            timestamp_s: head.timestamp_s,
            tokens: self.all(dialect, &head).await?,
        })
    }

    /// One token, whoever owns it.
    pub async fn token(&self, id: TokenId) -> Result<TokenInfo, ChainError> {
        let absent = || {
            ChainError::Missing(format!(
                "token {id} does not exist on contract {}",
                self.contract
            ))
        };
        let dialect = self.dialect().await?;
        if dialect != Dialect::PxSync {
            let ids = [id.0];
            let read = self.read_additive(dialect, &ids, BlockId::latest());
            return read.await?.pop().ok_or_else(absent);
        }
        let call = PxSync::tokenInfoCall { tokenId: id.0 };
        let found = self.endpoint.call(self.contract, &call, BlockId::latest());
        match found.await {
            Ok(found) => Ok(token(found)),
            Err(ChainError::Reverted(_)) => Err(absent()),
            Err(fault) => Err(fault),
        }
    }
}

fn token(info: PxSync::TokenInfo) -> TokenInfo {
    TokenInfo {
        id: TokenId(info.tokenId),
        owner: info.owner,
        package: pxfs_base::text::name(&info.packageName),
        epoch: info.epoch,
        // An invalid name shows as one.
        name: (!info.btnsKey.is_empty())
            .then(|| pxfs_base::text::name(&pxfs_base::text::path(info.btnsKey.as_bytes()))),
        size_bytes: saturate(info.sizeInBytes),
        usage_bytes: saturate(info.usage),
        uploads_left: None,
        accounting: Accounting::Absolute,
        last_sync_s: info.lastUpdateTimestamp,
        sync_window_s: saturate(info.syncWindow),
        sequence: info.synced.then_some(info.sequence),
        root: (info.synced && !info.root.is_zero()).then_some(info.root),
        anchor: None,
        sync_asked_s: (!info.requestId.is_zero()).then_some(info.requestedAt),
    }
}

fn package(package: PxSync::Package) -> Package {
    Package {
        id: saturate(package.id),
        name: pxfs_base::text::name(&package.name),
        price: package.price,
        size_bytes: saturate(package.sizeInBytes),
        uploads: u64::try_from(package.bandwidthLimit).ok(),
        on_sale: package.active,
    }
}

fn saturate(value: U256) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
