//! The oracle operator: answers the contract's sync requests where Chainlink's network does not run.
//!
//! Invariant: what it signs is what [`Reader`] has verified, or an error code; a request is answered
//! until the chain shows it closed, also after a restart. Runs in the daemon on the embedded chain,
//! and as `pxfs oracle`.
//!
//! An operator signs with all keys that it has been given. Operators on different machines do not
//! yet exchange signatures, so one process must hold as many keys as the forwarder wants.

use std::collections::BTreeMap;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolEvent};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::ChainError;
use super::contract::{OracleForwarder, PxSync, Report, report_digest};
use super::transact::Transactor;
use super::wallet::Wallet;
use crate::types::{TokenId, TokenKey, VolumeKey};

mod reader;
#[cfg(test)]
mod tests;

pub use reader::{Finding, Reader, Refusal};

/// Blocks of one question for logs.
const LOGS_RANGE: u64 = 5_000;
/// Blocks that are looked at again, in case the newest were replaced.
const LOGS_AGAIN: u64 = 16;
/// Pauses between tries to answer one request.
const TRY_MIN: Duration = Duration::from_millis(500);
const TRY_MAX: Duration = Duration::from_secs(60);
/// How often a document that cannot be had is tried before the request is answered with that.
const READS: u32 = 3;
/// The longest that one request may take, so that it does not hold up the others for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

/// One operator.
pub struct Operator {
    payer: Transactor,
    contract: Address,
    signers: Vec<PrivateKeySigner>,
    reader: Reader,
    next_block: u64,
    open: BTreeMap<B256, Open>,
}

/// A request that waits for its answer.
#[derive(Clone, Debug)]
struct Open {
    token: TokenId,
    epoch: u64,
    name: String,
    block: u64,
    reads: u32,
    pause: Duration,
    due: Instant,
}

/// What became of one try to answer.
enum Step {
    Closed,
    Later(String),
}

impl Operator {
    /// An operator for `contract` that signs with `signers`, reads through `reader`, and looks for
    /// requests from `from_block` on (the contract's deployment, or what [`Operator::next_block`]
    /// said before). `payer` pays for the deliveries.
    #[must_use]
    pub fn new(
        payer: Transactor,
        contract: Address,
        signers: &[&Wallet],
        reader: Reader,
        from_block: u64,
    ) -> Self {
        let mut signers: Vec<_> = signers
            .iter()
            .map(|wallet| wallet.signer().clone())
            .collect();
        // The forwarder wants signatures in ascending order of their addresses.
        signers.sort_by_key(PrivateKeySigner::address);
        signers.dedup_by_key(|signer| signer.address());
        Self {
            payer,
            contract,
            signers,
            reader,
            next_block: from_block,
            open: BTreeMap::new(),
        }
    }

    /// Where to go on after a restart: every request before this block is answered.
    #[must_use]
    pub fn next_block(&self) -> u64 {
        let open = self.open.values().map(|open| open.block);
        open.fold(self.next_block, u64::min)
    }

    /// Checks that its signatures suffice.
    ///
    /// # Errors
    /// [`ChainError::Permanent`] when they do not, or the contract has no forwarder.
    pub async fn check(&self) -> Result<(), ChainError> {
        let forwarder = self.forwarder().await?;
        let endpoint = self.payer.endpoint();
        let call = OracleForwarder::thresholdCall {};
        let threshold = endpoint.call(forwarder, &call, BlockId::latest()).await?;
        let mut accepted = 0_u64;
        for signer in &self.signers {
            let call = OracleForwarder::isOperatorCall {
                operator: signer.address(),
            };
            accepted += u64::from(endpoint.call(forwarder, &call, BlockId::latest()).await?);
        }
        if U256::from(accepted) < threshold {
            return Err(ChainError::Permanent(format!(
                "this oracle has {accepted} of the {threshold} signatures that forwarder {forwarder} wants"
            )));
        }
        Ok(())
    }

    /// Answers requests until `stop` turns true (or its sender is gone), looking every `pause`.
    pub async fn run(mut self, pause: Duration, mut stop: watch::Receiver<bool>) {
        let mut last = None;
        while !*stop.borrow() {
            let stepped = tokio::select! {
                stepped = self.step() => stepped,
                _ = stop.changed() => continue,
            };
            let fault = stepped.err();
            if let Some(fault) = &fault
                && last.as_ref() != Some(fault)
            {
                tracing::warn!("oracle: {fault}");
            }
            last = fault;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Looks for new requests and tries to answer those that are due; answers how many were closed.
    ///
    /// # Errors
    /// When the chain does not answer; nothing is forgotten then.
    pub async fn step(&mut self) -> Result<usize, ChainError> {
        self.look().await?;
        let now = Instant::now();
        let due = self.open.iter().filter(|(_, open)| open.due <= now);
        let due: Vec<B256> = due.map(|(request, _)| *request).collect();
        let mut closed = 0;
        for request in due {
            let Some(open) = self.open.get(&request).cloned() else {
                continue;
            };
            let answer = timeout(ANSWER_LIMIT, self.answer(request, &open)).await;
            match answer.unwrap_or_else(|_| Ok(Step::Later("took too long".to_owned()))) {
                Ok(Step::Closed) => {
                    self.open.remove(&request);
                    closed += 1;
                }
                Ok(Step::Later(why)) => self.postpone(request, open.token, &why),
                Err(fault) => self.postpone(request, open.token, &fault.to_string()),
            }
        }
        Ok(closed)
    }

    fn postpone(&mut self, request: B256, token: TokenId, why: &str) {
        tracing::warn!("oracle: request {request} of token {token} waits: {why}");
        if let Some(open) = self.open.get_mut(&request) {
            open.reads += 1;
            open.due = Instant::now() + open.pause;
            open.pause = (open.pause * 2).min(TRY_MAX);
        }
    }

    /// Takes in the requests of new blocks. Of a token only the last can be open.
    async fn look(&mut self) -> Result<(), ChainError> {
        let endpoint = self.payer.endpoint().clone();
        let height = endpoint.height().await?;
        // A chain that was set back has new blocks where old ones were.
        let mut from = self.next_block.min(height + 1).saturating_sub(LOGS_AGAIN);
        let mut found: BTreeMap<TokenId, (B256, Open)> = BTreeMap::new();
        while from <= height {
            let to = height.min(from + LOGS_RANGE - 1);
            let filter = Filter::new()
                .address(self.contract)
                .event_signature(PxSync::SyncRequested::SIGNATURE_HASH)
                .from_block(from)
                .to_block(to);
            let logs = endpoint.provider().get_logs(&filter).await;
            for log in logs.map_err(|fault| endpoint.fault(fault))? {
                if let Ok(asked) = PxSync::SyncRequested::decode_log(&log.inner) {
                    let open = Open {
                        token: TokenId(asked.tokenId),
                        epoch: asked.epoch,
                        name: asked.btnsKey.clone(),
                        block: log.block_number.unwrap_or(from),
                        reads: 0,
                        pause: TRY_MIN,
                        due: Instant::now(),
                    };
                    found.insert(open.token, (asked.requestId, open));
                }
            }
            from = to + 1;
        }
        for (request, open) in found.into_values() {
            if !self.open.contains_key(&request) && self.is_open(request, open.token).await? {
                self.open.insert(request, open);
            }
        }
        self.next_block = height + 1;
        Ok(())
    }

    async fn is_open(&self, request: B256, token: TokenId) -> Result<bool, ChainError> {
        let call = PxSync::tokenInfoCall { tokenId: token.0 };
        let endpoint = self.payer.endpoint();
        let info = endpoint.call(self.contract, &call, BlockId::latest()).await;
        match info {
            Ok(info) => Ok(info.requestId == request),
            Err(ChainError::Reverted(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Reads the document, signs what it says, delivers.
    async fn answer(&self, request: B256, open: &Open) -> Result<Step, ChainError> {
        if !self.is_open(request, open.token).await? {
            return Ok(Step::Closed);
        }
        let endpoint = self.payer.endpoint();
        let volume = VolumeKey {
            token: TokenKey {
                chain_id: endpoint.chain_id().await?,
                contract: self.contract,
                token: open.token,
            },
            epoch: open.epoch,
        };
        let mut report = Report {
            request,
            token: open.token.0,
            epoch: open.epoch,
            usage: 0,
            sequence: 0,
            root: B256::ZERO,
            error: 0,
        };
        match self.reader.read(&volume, &open.name).await {
            Ok(finding) => {
                report.usage = finding.usage_bytes;
                report.sequence = finding.sequence;
                report.root = finding.root.unwrap_or_default();
            }
            Err(refusal) if refusal.again && open.reads + 1 < READS => {
                return Ok(Step::Later(refusal.why));
            }
            Err(refusal) => {
                tracing::warn!("oracle: token {}: {}", open.token, refusal.why);
                report.error = refusal.code;
            }
        }
        self.deliver(volume.token.chain_id, report.encode()).await?;
        Ok(Step::Closed)
    }

    async fn deliver(&self, chain_id: u64, report: Bytes) -> Result<(), ChainError> {
        let forwarder = self.forwarder().await?;
        let digest = report_digest(chain_id, forwarder, self.contract, &Bytes::new(), &report);
        let signatures = self.signers.iter().map(|signer| {
            let signature = signer.sign_hash_sync(&digest);
            signature.map(|signature| Bytes::from(signature.as_bytes()))
        });
        let signatures: Result<Vec<_>, _> = signatures.collect();
        let signatures = signatures
            .map_err(|fault| ChainError::Permanent(format!("the oracle cannot sign: {fault}")))?;
        let call = OracleForwarder::deliverCall {
            receiver: self.contract,
            metadata: Bytes::new(),
            report,
            signatures,
        };
        let data = call.abi_encode().into();
        self.payer
            .send(Some(forwarder), data, U256::ZERO, None)
            .await?;
        Ok(())
    }

    async fn forwarder(&self) -> Result<Address, ChainError> {
        let call = PxSync::forwarderCall {};
        let endpoint = self.payer.endpoint();
        let forwarder = endpoint
            .call(self.contract, &call, BlockId::latest())
            .await?;
        if forwarder.is_zero() {
            let what = format!(
                "contract {} has no forwarder: nobody can answer",
                self.contract
            );
            return Err(ChainError::Permanent(what));
        }
        Ok(forwarder)
    }
}
