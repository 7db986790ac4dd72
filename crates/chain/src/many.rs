//! Batches contract calls into as few requests as possible.
//!
//! With Multicall3 they are one `eth_call`, else one batch; either is halved if the endpoint
//! refuses it whole, and the accepted size is remembered.
//!
//! Invariant: all answers are of one block, each in its place, and a call that ran short of gas is
//! never taken for a refusal.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, address};
use alloy::providers::Provider;
use alloy::rpc::client::BatchRequest;
use alloy::sol_types::SolCall;
use tokio::sync::OnceCell;

use super::ChainError;
use super::contract::Multicall;
use super::endpoint::{Endpoint, refused, request};

/// Where Multicall3 is deployed (<https://www.multicall3.com>).
const MULTICALL: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");
/// The most calls of one batch (the transport finds a server's limit), and of one Multicall3 call.
const BATCH: usize = 4_000;
const TOGETHER: usize = 2_000;

/// What an endpoint knows of its chain and limits.
#[derive(Debug)]
pub(super) struct Many {
    multicall: OnceCell<Option<Address>>,
    /// Calls per Multicall3 call.
    most: AtomicUsize,
}

impl Default for Many {
    fn default() -> Self {
        Self {
            multicall: OnceCell::new(),
            most: AtomicUsize::new(TOGETHER),
        }
    }
}

/// The contract's answer to one call, or [`ChainError::Reverted`].
type Answer = Result<Bytes, ChainError>;

impl Endpoint {
    /// The same chain with Multicall3 at `multicall`, or without it.
    #[cfg(test)]
    pub(super) fn with_multicall(&self, multicall: Option<Address>) -> Self {
        let many = Many {
            multicall: OnceCell::new_with(Some(multicall)),
            ..Many::default()
        };
        self.clone().with_many(many)
    }

    /// The answers to `calls`, in as few requests as allowed; refused ones are [`ChainError::Reverted`], each
    /// in its place.
    ///
    /// # Errors
    /// As [`Endpoint::fault`], if a call gets no answer at all.
    pub(super) async fn call_many(
        &self,
        contract: Address,
        calls: &[Bytes],
        block: BlockId,
    ) -> Result<Vec<Answer>, ChainError> {
        let multicall = match calls.len() {
            0 | 1 => None,
            _ => self.multicall().await?,
        };
        match multicall {
            Some(multicall) => self.together(multicall, contract, calls, block).await,
            None => self.each(contract, calls, block).await,
        }
    }

    /// Multicall3's address on this chain, if any; asked once.
    async fn multicall(&self) -> Result<Option<Address>, ChainError> {
        let ask = || async {
            let code = self.provider().get_code_at(MULTICALL).await;
            let code = code.map_err(|fault| self.fault(fault))?;
            Ok((!code.is_empty()).then_some(MULTICALL))
        };
        self.many().multicall.get_or_try_init(ask).await.copied()
    }

    async fn each(
        &self,
        contract: Address,
        calls: &[Bytes],
        block: BlockId,
    ) -> Result<Vec<Answer>, ChainError> {
        let answers = self.batch(contract, calls, block).await?;
        let answers = answers.into_iter().map(|answer| match answer {
            Ok(answer) => Ok(Ok(answer)),
            Err(refused @ ChainError::Reverted(_)) => Ok(Err(refused)),
            Err(fault) => Err(fault),
        });
        answers.collect()
    }

    /// The same; an error stands in its call's place.
    async fn batch(
        &self,
        contract: Address,
        calls: &[Bytes],
        block: BlockId,
    ) -> Result<Vec<Answer>, ChainError> {
        let fault = |fault| self.fault(fault);
        let mut answers = Vec::with_capacity(calls.len());
        for some in calls.chunks(BATCH) {
            let mut batch = BatchRequest::new(self.provider().client());
            let mut waiting = Vec::with_capacity(some.len());
            for data in some {
                let call = (request(contract, data.clone()), block);
                waiting.push(batch.add_call("eth_call", &call).map_err(fault)?);
            }
            batch.send().await.map_err(fault)?;
            for answer in waiting {
                answers.push(answer.await.map_err(fault));
            }
        }
        Ok(answers)
    }

    async fn together(
        &self,
        multicall: Address,
        contract: Address,
        calls: &[Bytes],
        block: BlockId,
    ) -> Result<Vec<Answer>, ChainError> {
        let mut answers: Vec<Option<Answer>> = vec![None; calls.len()];
        let most = self.many().most.load(Ordering::Relaxed);
        let mut open: Vec<Range<usize>> = (0..calls.len())
            .step_by(most)
            .map(|first| first..calls.len().min(first + most))
            .collect();
        let mut alone = Vec::new();
        while !open.is_empty() {
            let packed: Vec<Bytes> = open
                .iter()
                .map(|range| pack(contract, &calls[range.clone()]))
                .collect();
            let told = self.batch(multicall, &packed, block).await?;
            for (range, told) in std::mem::take(&mut open).into_iter().zip(told) {
                let told = match told {
                    Err(fault @ ChainError::Transient(_)) => return Err(fault),
                    told => told.ok().and_then(|told| unpack(&told, range.len())),
                };
                match told {
                    Some(results) => {
                        for (index, answer) in range.zip(results) {
                            match answer {
                                Some(answer) => answers[index] = Some(answer),
                                None => alone.push(index),
                            }
                        }
                    }
                    None if range.len() > 1 => {
                        // Too much gas, or too long an answer or question.
                        let half = range.len() / 2;
                        self.many()
                            .most
                            .fetch_min(range.len() - half, Ordering::Relaxed);
                        let middle = range.start + half;
                        open.extend([range.start..middle, middle..range.end]);
                    }
                    None => alone.extend(range),
                }
            }
        }
        let some: Vec<Bytes> = alone.iter().map(|&index| calls[index].clone()).collect();
        let rest = self.each(contract, &some, block).await?;
        for (index, answer) in alone.into_iter().zip(rest) {
            answers[index] = Some(answer);
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

/// Calls of one contract as one of Multicall3.
fn pack(contract: Address, calls: &[Bytes]) -> Bytes {
    let calls = calls.iter().map(|data| Multicall::Call3 {
        target: contract,
        allowFailure: true,
        callData: data.clone(),
    });
    let calls = calls.collect();
    Multicall::aggregate3Call { calls }.abi_encode().into()
}

/// The `count` answers; `None` for a refusal without words, which may be a lack of gas.
fn unpack(told: &Bytes, count: usize) -> Option<Vec<Option<Answer>>> {
    let results = Multicall::aggregate3Call::abi_decode_returns_validate(told).ok()?;
    let answers = results.into_iter().map(|result| match result.success {
        true => Some(Ok(result.returnData)),
        false if result.returnData.is_empty() => None,
        false => Some(Err(refused(&result.returnData, ""))),
    });
    let answers: Vec<_> = answers.collect();
    (answers.len() == count).then_some(answers)
}
