//! Charges on `px-v1` and `px-v2`: reports to the contract what a commit has stored, once.
//!
//! Invariant: a commit is charged under one tag, so no process ever charges it twice; it is done
//! only when its block is final.

use std::collections::BTreeMap;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, U256};

use super::ChainError;
use super::contract::PxV2;
use super::dialect::Dialect;
use super::endpoint::is_refusal;
use super::outbox::shelf::Watch;
use super::outbox::{Outcome, Purpose};
use super::transact::{Posted, Transactor, update_calldata};
use pxfs_base::types::TokenId;

/// Upload units of one commit.
pub const UNITS: u64 = 1;

/// Charges the commits of one token.
#[derive(Clone, Debug)]
pub struct Charger {
    transactor: Transactor,
    contract: Address,
    dialect: Dialect,
    token: TokenId,
}

/// The state of the charges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Commits (by sequence) charged in a final block, and a number no lower than its. Once the
    /// chain is known up to such a block, delete them durably, then call [`Charger::forget`].
    pub done: Vec<(u64, u64)>,
    /// Commits charged in a block that is not final, and its number.
    pub mined: BTreeMap<u64, u64>,
    /// Commits that can never be charged, because the token was sold or burned for good. Delete
    /// them durably, then call [`Charger::forget`].
    pub lost: Vec<u64>,
    /// Why it makes no progress.
    pub error: Option<ChainError>,
    /// The charge of the last commit, if any.
    pub transaction: Option<B256>,
}

impl Report {
    /// Whether all of `commits` are charged in a block, final or not.
    #[must_use]
    pub fn is_mined(&self, commits: &[(u64, u64)]) -> bool {
        self.done.len() + self.mined.len() >= commits.len()
    }
}

impl Charger {
    /// Charges `token` on `contract`.
    #[must_use]
    pub fn new(
        transactor: Transactor,
        contract: Address,
        dialect: Dialect,
        token: TokenId,
    ) -> Self {
        Self {
            transactor,
            contract,
            dialect,
            token,
        }
    }

    /// Drives the charge of each of `commits` (sequence and bytes, in order).
    ///
    /// # Errors
    /// The outbox cannot be read.
    pub async fn report(&self, commits: &[(u64, u64)]) -> Result<Report, ChainError> {
        let mut report = Report::default();
        if commits.is_empty() {
            return Ok(report);
        }
        let known = self.transactor.posted().await?;
        for &(sequence, bytes) in commits {
            let tag = self.tag(sequence);
            let posted = match known.iter().find(|posted| posted.tag == tag) {
                Some(posted) => posted.clone(),
                None => match self.charge(&tag, bytes).await {
                    Ok(posted) => posted,
                    Err(fault) => {
                        if is_refusal(&fault) {
                            report.lost = self.lost(commits).await?;
                        }
                        report.error = Some(fault);
                        break;
                    }
                },
            };
            report.transaction = posted.transaction;
            match posted.over {
                Some(Outcome::Happened) => {
                    report
                        .done
                        .extend(posted.mined.map(|block| (sequence, block)));
                }
                Some(Outcome::Refused | Outcome::Lost) => {
                    // It had no effect: ask again, and the chain says why it refuses.
                    self.transactor.forget(&tag).await?;
                    let line = format!(
                        "token {}: a charge was refused, and is tried anew",
                        self.token
                    );
                    report.error = Some(ChainError::Reverted(line));
                    break;
                }
                None => {
                    report
                        .mined
                        .extend(posted.mined.map(|block| (sequence, block)));
                    report.error = posted.error.map(ChainError::Transient).or(report.error);
                }
            }
        }
        Ok(report)
    }

    /// Forgets a commit that the caller has deleted.
    ///
    /// # Errors
    /// The outbox cannot be written.
    pub async fn forget(&self, sequence: u64) -> Result<(), ChainError> {
        self.transactor.forget(&self.tag(sequence)).await
    }

    /// Forgets ended charges that a crash left: those of commits not in `kept`.
    ///
    /// # Errors
    /// The outbox cannot be read or written.
    pub async fn sweep(&self, kept: &[(u64, u64)]) -> Result<(), ChainError> {
        let kept: Vec<String> = kept
            .iter()
            .map(|(sequence, _)| self.tag(*sequence))
            .collect();
        let prefix = self.tag_prefix();
        let posted = self.transactor.posted().await?.into_iter();
        let left = posted.filter(|posted| {
            posted.over.is_some() && posted.tag.starts_with(&prefix) && !kept.contains(&posted.tag)
        });
        for posted in left {
            self.transactor.forget(&posted.tag).await?;
        }
        Ok(())
    }

    /// Those of `commits` that can never be charged: a final block shows the token sold or burned,
    /// and nothing signed for them can still be mined.
    async fn lost(&self, commits: &[(u64, u64)]) -> Result<Vec<u64>, ChainError> {
        let (contract, token) = (self.contract, self.token.0);
        if !self.transactor.has_lost(contract, token).await? {
            return Ok(Vec::new());
        }
        let known = self.transactor.posted().await?;
        let is_ended = |sequence: &u64| {
            let tag = self.tag(*sequence);
            let posted = known.iter().find(|posted| posted.tag == tag);
            // Those that happened are settled normally.
            posted
                .is_none_or(|posted| matches!(posted.over, Some(Outcome::Refused | Outcome::Lost)))
        };
        let sequences = commits.iter().map(|(sequence, _)| *sequence);
        Ok(sequences.filter(is_ended).collect())
    }

    async fn charge(&self, tag: &str, bytes: u64) -> Result<Posted, ChainError> {
        let call = PxV2::getStorageUsageInBytesCall {
            tokenId: self.token.0,
        };
        let endpoint = self.transactor.endpoint();
        let before = endpoint.call(self.contract, &call, BlockId::latest());
        let watch = Watch {
            token: self.token.0,
            bytes: U256::from(bytes),
            before: before.await?,
        };
        let purpose = Purpose {
            to: Some(self.contract),
            data: update_calldata(self.dialect, self.token, bytes, UNITS),
            value: U256::ZERO,
            bound: false,
        };
        self.transactor.post(tag, purpose, Some(watch)).await
    }

    fn tag(&self, sequence: u64) -> String {
        format!("{}{sequence}", self.tag_prefix())
    }

    fn tag_prefix(&self) -> String {
        format!("charge {:#x} {} ", self.contract, self.token)
    }
}
