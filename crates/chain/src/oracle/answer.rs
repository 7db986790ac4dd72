//! Answers one request: reads, agrees, signs, delivers.
//!
//! Invariant: it signs only what [`Reader`](super::Reader) has verified, or an error code; a
//! delivery is tagged with its request, so that a restart resumes it.

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolEvent};
use tokio::time::Instant;

use super::agree::{Council, Statement, settle};
use super::reader::{Finding, Refusal};
use super::{Open, Operator, Outcome, READS, Told, Wait};
use crate::ChainError;
use crate::contract::{OracleForwarder, PxSync, Report, Seen, failure, report_digest};
use crate::outbox::Purpose;
use pxfs_base::types::{TokenId, TokenKey, VolumeKey};
use pxfs_storage::names::key::public_key;

/// How long operators keep to a block that one of them saw, seconds; the contract takes it for five
/// minutes.
const AGREED_S: u64 = 120;

pub(super) enum Step {
    Closed(Told),
    Later(Wait, String),
}

impl Operator {
    /// The chain's data on `token`, if this request is its open one.
    pub(super) async fn open_info(
        &self,
        request: B256,
        token: TokenId,
    ) -> Result<Option<PxSync::TokenInfo>, ChainError> {
        let call = PxSync::tokenInfoCall { tokenId: token.0 };
        let endpoint = self.payer.endpoint();
        let info = endpoint.call(self.contract, &call, BlockId::latest()).await;
        match info {
            Ok(info) => Ok((info.requestId == request).then_some(info)),
            Err(ChainError::Reverted(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn answer(&self, request: B256, open: &Open) -> Result<Step, ChainError> {
        let Some(info) = self.open_info(request, open.token).await? else {
            return Ok(Step::Closed(open.told(request, Outcome::Elsewhere)));
        };
        let chain_id = self.payer.endpoint().chain_id().await?;
        let volume = VolumeKey {
            token: TokenKey {
                chain_id,
                contract: self.contract,
                token: open.token,
            },
            epoch: open.epoch,
        };
        let forwarder = self.forwarder().await?;
        let council = self.council(forwarder).await?;
        let digest = |report: &Bytes| {
            report_digest(chain_id, forwarder, self.contract, &Bytes::new(), report)
        };
        let others = match &self.colleagues {
            Some(colleagues) => colleagues.statements(request).await,
            None => Vec::new(),
        };
        let admits = |other: &Statement| {
            Report::is_about(&other.report, request, open.token.0, open.epoch)
                && !council
                    .votes(digest(&other.report), &other.signatures)
                    .is_empty()
        };
        let own = self.reader.read(&volume, &open.name).await;
        if let Err(refusal) = &own {
            tracing::debug!("oracle: token {}: {}", open.token, refusal.why);
        }
        let key = public_key(&open.name).ok();
        let settled = settle(own, &others, key.as_ref(), &volume, admits);
        let last_read = open.reads + 1 >= READS;
        match &settled {
            Err(refusal) if refusal.again && !last_read => {
                return Ok(Step::Later(Wait::Read, refusal.why.clone()));
            }
            // A cache may be stale, and the contract would close the request.
            Ok(found) if !last_read && let Some(why) = outdated(found, &info) => {
                return Ok(Step::Later(Wait::Read, why));
            }
            _ => {}
        }
        let seen = match &settled {
            Ok(_) => Seen::default(),
            Err(refusal) => {
                let own = self.board.get(request);
                let said = others.iter().filter(|other| admits(other)).chain(&own);
                let head = self.head().await?;
                agreed(refusal.code, head, said)
            }
        };
        let report = report_of(request, open, &settled, seen);
        let statement = self.state(&report, digest(&report), &settled)?;
        self.board.put(request, statement.clone());
        let same = others.iter().filter(|other| other.report == report);
        let signatures = same.flat_map(|other| &other.signatures);
        let votes = council.votes(
            digest(&report),
            statement.signatures.iter().chain(signatures),
        );
        if votes.len() < council.threshold {
            let (have, want) = (votes.len(), council.threshold);
            let why = format!("{have} of {want} operators have signed this report");
            return Ok(Step::Later(Wait::Signatures, why));
        }
        let own: Vec<Address> = self.signers.iter().map(PrivateKeySigner::address).collect();
        let ahead = council.turns_before(request, &own);
        if self.colleagues.is_some() && Instant::now() < open.seen + self.turn * ahead {
            let why = "another operator has its turn first".to_owned();
            return Ok(Step::Later(Wait::Turn, why));
        }
        let signatures = votes.into_values().take(council.threshold).collect();
        let receipt = self.deliver(forwarder, request, report, signatures).await?;
        let refusal = settled.err().map(|refusal| refusal.why);
        let outcome = outcome(self.contract, request, &receipt, refusal);
        if outcome == Outcome::Elsewhere && self.open_info(request, open.token).await?.is_some() {
            let why = "the contract has not taken the failure: it was mined too late";
            return Ok(Step::Later(Wait::Read, why.to_owned()));
        }
        Ok(Step::Closed(open.told(request, outcome)))
    }

    async fn head(&self) -> Result<Seen, ChainError> {
        let endpoint = self.payer.endpoint();
        let block = endpoint.provider().get_block(BlockId::latest()).await;
        let block = block.map_err(|fault| endpoint.fault(fault))?;
        let header = block.map(|block| block.header).ok_or_else(|| {
            ChainError::Transient(format!("{} has no newest block", endpoint.current()))
        })?;
        Ok(Seen {
            time_s: header.timestamp,
            block: header.number,
        })
    }

    fn state(
        &self,
        report: &Bytes,
        digest: B256,
        settled: &Result<Finding, Refusal>,
    ) -> Result<Statement, ChainError> {
        let signatures = self.signers.iter().map(|signer| {
            let signature = signer.sign_hash_sync(&digest);
            signature.map(|signature| Bytes::from(signature.as_bytes()))
        });
        let signatures: Result<Vec<_>, _> = signatures.collect();
        let signatures = signatures
            .map_err(|fault| ChainError::Permanent(format!("the oracle cannot sign: {fault}")))?;
        let document = settled.as_ref().ok().map(|found| &found.document);
        Ok(Statement {
            report: report.clone(),
            signatures,
            document: document.and_then(|text| String::from_utf8(text.to_vec()).ok()),
        })
    }

    async fn deliver(
        &self,
        forwarder: Address,
        request: B256,
        report: Bytes,
        signatures: Vec<Bytes>,
    ) -> Result<TransactionReceipt, ChainError> {
        let call = OracleForwarder::deliverCall {
            receiver: self.contract,
            metadata: Bytes::new(),
            report,
            signatures,
        };
        let purpose = Purpose {
            to: Some(forwarder),
            data: call.abi_encode().into(),
            value: U256::ZERO,
            bound: false,
        };
        let tag = format!("oracle {} {request}", self.contract);
        self.payer.send_tagged(tag, purpose).await
    }

    pub(super) async fn council(&self, forwarder: Address) -> Result<Council, ChainError> {
        let endpoint = self.payer.endpoint();
        let threshold = OracleForwarder::thresholdCall {};
        let threshold = endpoint.call(forwarder, &threshold, BlockId::latest());
        let operators = OracleForwarder::operatorsCall {};
        let operators = endpoint.call(forwarder, &operators, BlockId::latest());
        let (threshold, operators) = tokio::try_join!(threshold, operators)?;
        Ok(Council {
            threshold: usize::try_from(threshold).unwrap_or(usize::MAX),
            operators: operators.into_iter().collect(),
        })
    }

    pub(super) async fn forwarder(&self) -> Result<Address, ChainError> {
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

/// Why the contract would refuse the finding.
fn outdated(found: &Finding, info: &PxSync::TokenInfo) -> Option<String> {
    if !info.synced {
        return None;
    }
    let (sequence, stored) = (found.sequence, info.sequence);
    if sequence < stored {
        return Some(format!(
            "the usage metadata has sequence {sequence}, and the chain has {stored}"
        ));
    }
    let other = sequence == stored && found.root.unwrap_or_default() != info.root;
    other.then(|| format!("the chain has another root at sequence {sequence}"))
}

/// The block to report with a failure: signatures must cover the same bytes, so the newest block
/// recently `said`, if any, but none above `head`.
fn agreed<'a>(code: u8, head: Seen, said: impl Iterator<Item = &'a Statement>) -> Seen {
    let seen = said.filter_map(|said| Report::seen(&said.report, code));
    let is_recent = |seen: &Seen| *seen <= head && head.time_s - seen.time_s <= AGREED_S;
    seen.filter(is_recent).max().unwrap_or(head)
}

fn report_of(request: B256, open: &Open, settled: &Result<Finding, Refusal>, seen: Seen) -> Bytes {
    let mut report = Report {
        request,
        token: open.token.0,
        epoch: open.epoch,
        usage: 0,
        sequence: 0,
        root: B256::ZERO,
        error: 0,
    };
    match settled {
        Ok(found) => {
            report.usage = found.usage_bytes;
            report.sequence = found.sequence;
            report.root = found.root.unwrap_or_default();
        }
        Err(refusal) => {
            (report.usage, report.sequence) = (seen.block, seen.time_s);
            report.error = refusal.code;
        }
    }
    report.encode()
}

/// What the contract made of a delivery.
fn outcome(
    contract: Address,
    request: B256,
    receipt: &TransactionReceipt,
    refusal: Option<String>,
) -> Outcome {
    let transaction = receipt.transaction_hash;
    let logs = receipt.logs().iter();
    for log in logs.filter(|log| log.address() == contract) {
        if let Ok(synced) = PxSync::Synced::decode_log(&log.inner) {
            return Outcome::Synced {
                usage: u64::try_from(synced.usage).unwrap_or(u64::MAX),
                sequence: synced.sequence,
                transaction,
            };
        }
        if let Ok(failed) = PxSync::SyncFailed::decode_log(&log.inner)
            && failed.requestId == request
        {
            let meaning = failure(failed.code);
            return Outcome::Failed {
                code: failed.code,
                reason: refusal
                    .map_or_else(|| meaning.to_owned(), |why| format!("{meaning} ({why})")),
                transaction,
            };
        }
    }
    Outcome::Elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(time_s: u64, code: u8) -> Statement {
        let report = Report {
            request: B256::ZERO,
            token: U256::ONE,
            epoch: 1,
            usage: time_s / 2,
            sequence: time_s,
            root: B256::ZERO,
            error: code,
        };
        Statement {
            report: report.encode(),
            signatures: Vec::new(),
            document: None,
        }
    }

    /// The forwarder counts signatures of the same bytes, but each operator has its own newest
    /// block.
    #[test]
    fn operators_come_to_tell_a_failure_of_one_block() {
        let seen = |time_s| Seen {
            time_s,
            block: time_s / 2,
        };
        let head = seen(10_000);
        let of = |all: &[Statement]| agreed(2, head, all.iter());
        assert_eq!(of(&[]), head);
        assert_eq!(of(&[said(9_990, 2), said(9_994, 2)]), seen(9_994));
        // Another code, a document, a future block and an old one do not count.
        for other in [
            said(9_990, 3),
            said(9_990, 0),
            said(10_002, 2),
            said(9_000, 2),
        ] {
            assert_eq!(of(&[other]), head);
        }
    }
}
