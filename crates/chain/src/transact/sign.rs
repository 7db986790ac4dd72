//! Signing: gas, fees, the balance check, and the bytes.
//!
//! Invariant: it signs nothing that the node would not run, the account cannot pay, or costs more
//! than allowed.

use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip2718::Encodable2718;
use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::providers::Provider;
use alloy::providers::utils::{Eip1559Estimation, Eip1559Estimator, eip1559_default_estimator};
use alloy::rpc::types::{TransactionInput, TransactionRequest};

use super::{Consent, Transactor};
use crate::ChainError;
use crate::coin;
use crate::outbox::{Purpose, Signed};

#[derive(Clone, Copy, Debug)]
pub(super) struct Fees {
    pub(super) max_fee: u128,
    /// `None` on chains without EIP-1559.
    pub(super) tip: Option<u128>,
}

/// The most that something costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Gas.
    pub gas: u64,
    /// Its cost, wei.
    pub wei: U256,
}

/// Blocks whose fees are compared with the present, and the highest factor paid unattended.
const RECENT: u64 = 128;
const DEARER: u128 = 10;

fn gwei(wei: u128) -> String {
    format!("{} gwei", wei.div_ceil(1_000_000_000))
}

/// The state may differ when mined; unused gas is not paid.
fn spare(gas: u64) -> u64 {
    gas.saturating_add(gas / 4)
}

/// The gas limit for replacing `before`, given the present use.
pub(super) fn gas_instead(before: &Signed, now: u64) -> u64 {
    match now > before.gas {
        true => spare(now),
        false => before.gas,
    }
}

/// Gas before execution, by EIP-2028 and EIP-3860: no chain takes less.
fn intrinsic(purpose: &Purpose) -> u64 {
    let zeros = purpose.data.iter().filter(|byte| **byte == 0).count() as u64;
    let others = purpose.data.len() as u64 - zeros;
    let creates = match purpose.to {
        Some(_) => 0,
        None => 32_000 + 2 * (purpose.data.len() as u64).div_ceil(32),
    };
    21_000 + creates + 4 * zeros + 16 * others
}

/// alloy's rule (twice the base fee, plus the median tip), for any numbers from a server.
fn estimate(base_fee: u128, rewards: &[Vec<u128>]) -> Eip1559Estimation {
    const MOST: u128 = u128::MAX >> 3;
    let bounded = |reward: &Vec<u128>| reward.iter().map(|one| MOST.min(*one)).collect();
    let rewards: Vec<Vec<u128>> = rewards.iter().map(bounded).collect();
    eip1559_default_estimator(MOST.min(base_fee), &rewards)
}

impl Transactor {
    pub(super) async fn fees(&self) -> Result<Fees, ChainError> {
        let provider = self.endpoint.provider();
        let estimator = Eip1559Estimator::new(estimate);
        match provider.estimate_eip1559_fees_with(estimator).await {
            Ok(fees) => Ok(Fees {
                max_fee: fees.max_fee_per_gas,
                tip: Some(fees.max_priority_fee_per_gas),
            }),
            // A chain without EIP-1559.
            Err(_) => {
                let price = provider.get_gas_price().await;
                Ok(Fees {
                    max_fee: price.map_err(|fault| self.endpoint.fault(fault))?,
                    tip: None,
                })
            }
        }
    }

    /// The cost of sending these in sequence (recipient, or `None` to create a contract), without value; the
    /// account has that much.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with what is missing, or why the chain would refuse one; else as
    /// [`Endpoint::fault`](crate::endpoint::Endpoint::fault).
    pub async fn cost(
        &self,
        calls: impl IntoIterator<Item = (Option<Address>, Bytes)>,
    ) -> Result<Cost, ChainError> {
        let provider = self.endpoint.provider();
        let balance = provider.get_balance(self.address()).await;
        let balance = balance.map_err(|fault| self.endpoint.fault(fault))?;
        let fees = self.fees().await?;
        let nonce = self.next_nonce().await?;
        let mut gas = 0_u64;
        for (to, data) in calls {
            let value = U256::ZERO;
            let bound = false;
            let purpose = Purpose {
                to,
                data,
                value,
                bound,
            };
            let request = self.request(&purpose, nonce).await?;
            let estimated = provider.estimate_gas(request).await;
            let estimated = estimated.map_err(|fault| self.endpoint.fault(fault))?;
            gas = spare(estimated).saturating_add(gas);
        }
        let wei = U256::from(gas) * U256::from(fees.max_fee);
        self.can_pay(balance, wei)?;
        Ok(Cost { gas, wei })
    }

    /// The highest gas cost of a call with `value` now.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] if the chain would refuse it, or the account cannot pay.
    pub async fn gas_of(&self, to: Address, data: Bytes, value: U256) -> Result<Cost, ChainError> {
        let purpose = Purpose {
            to: Some(to),
            data,
            value,
            bound: false,
        };
        let request = self.request(&purpose, self.next_nonce().await?).await?;
        let gas = self.endpoint.provider().estimate_gas(request).await;
        let gas = spare(gas.map_err(|fault| self.endpoint.fault(fault))?);
        let wei = U256::from(gas) * U256::from(self.fees().await?.max_fee);
        Ok(Cost { gas, wei })
    }

    /// Signs `purpose` at `nonce` at present prices, within its gas limit. A node runs it for that,
    /// so a revert shows here.
    pub(super) async fn sign_new(
        &self,
        purpose: &Purpose,
        nonce: u64,
        gas_cost_max: Option<U256>,
    ) -> Result<Signed, ChainError> {
        let provider = self.endpoint.provider();
        let balance = provider.get_balance(self.address()).await;
        let balance = balance.map_err(|fault| self.endpoint.fault(fault))?;
        self.can_pay(balance, purpose.value)?;
        let request = self.request(purpose, nonce).await?;
        let gas = provider.estimate_gas(request).await;
        let gas = gas.map_err(|fault| self.endpoint.fault(fault))?;
        let least = intrinsic(purpose);
        if gas < least {
            // Nodes refuse less, and every later nonce would wait for it.
            return Err(ChainError::Transient(format!(
                "not sent: {} says that it takes {gas} gas, and it takes {least} at least: give another --rpc-url, or try later",
                self.endpoint.current()
            )));
        }
        let gas = spare(gas);
        let fees = self.fees().await?;
        let cost = U256::from(gas) * U256::from(fees.max_fee);
        if let Some(most) = gas_cost_max
            && cost > most
        {
            let (cost, most) = (self.amount(cost), self.amount(most));
            let allowed = match self.consent {
                Consent::Agreed => format!("{most} was agreed to: ask again"),
                _ => format!("--max-fee allows {most}: try later, or allow more"),
            };
            return Err(ChainError::Reverted(format!(
                "not sent: its gas may cost {cost}, and {allowed}"
            )));
        }
        self.is_usual(fees).await?;
        self.can_pay(balance, purpose.value.saturating_add(cost))?;
        self.sign_for(purpose, nonce, gas, fees).await
    }

    /// If nobody saw or limited the fees, waits out a price peak.
    async fn is_usual(&self, fees: Fees) -> Result<(), ChainError> {
        let Some(tip) = fees.tip else {
            return Ok(());
        };
        if self.gas_cost_max.is_some() || self.consent == Consent::Agreed || self.bound().is_none()
        {
            return Ok(());
        }
        let provider = self.endpoint.provider();
        let told = provider.get_fee_history(RECENT, BlockNumberOrTag::Latest, &[]);
        // Not every server tells; then only the total limit holds.
        let Ok(told) = told.await else {
            return Ok(());
        };
        let mut paid = told.base_fee_per_gas;
        paid.sort_unstable();
        let usual = paid.get(paid.len() / 2).copied().unwrap_or_default();
        // The offer is twice the base fee.
        let asked = fees.max_fee.saturating_sub(tip) / 2;
        match usual > 0 && asked > usual.saturating_mul(DEARER) {
            true => Err(ChainError::Reverted(format!(
                "not sent: one gas costs {} now, more than {DEARER} times what it did in most of the last {RECENT} \
                 blocks: try later, or allow more by --max-fee",
                gwei(asked)
            ))),
            false => Ok(()),
        }
    }

    /// The present gas of `purpose` at `nonce`; 0 if unknown.
    pub(super) async fn gas_now(&self, purpose: &Purpose, nonce: u64) -> u64 {
        let Ok(request) = self.request(purpose, nonce).await else {
            return 0;
        };
        let gas = self.endpoint.provider().estimate_gas(request).await;
        gas.unwrap_or(0)
    }

    /// Signs `purpose` at `nonce` to replace `before`, for at most `max_fee` wei a gas, and at
    /// least the gas that it uses `now`.
    pub(super) async fn sign_instead(
        &self,
        purpose: &Purpose,
        nonce: u64,
        before: &Signed,
        (max_fee, now): (u128, u64),
    ) -> Result<Signed, ChainError> {
        let fees = self.fees().await?;
        // Nodes want more of both.
        let tip = before.tip.map(|paid| {
            let tip = fees.tip.unwrap_or_default();
            tip.max(paid + paid / 8 + 1).min(max_fee)
        });
        let fees = Fees { max_fee, tip };
        self.sign_for(purpose, nonce, gas_instead(before, now), fees)
            .await
    }

    /// A transfer of nothing to ourselves, to use up a nonce; unattended.
    pub(super) async fn sign_nothing(&self, nonce: u64) -> Result<Signed, ChainError> {
        let nothing = Purpose {
            to: Some(self.address()),
            data: Bytes::new(),
            value: U256::ZERO,
            bound: true,
        };
        let gas_cost_max = self.unasked().gas_cap(&nothing)?;
        self.sign_new(&nothing, nonce, gas_cost_max).await
    }

    /// The most for one of `gas`, wei, given the `first` signature.
    pub(super) fn fee_cap(&self, first: &Signed, gas: u64, gas_cost_max: Option<U256>) -> u128 {
        match gas_cost_max {
            Some(most) => u128::try_from(most / U256::from(gas.max(1))).unwrap_or(u128::MAX),
            None => first.max_fee.saturating_mul(10),
        }
    }

    /// The most for the gas of `purpose`, wei. Unattended transactions have no agreed price, so the value
    /// counts too.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] if the value exceeds what may be spent or was agreed to.
    pub(super) fn gas_cap(&self, purpose: &Purpose) -> Result<Option<U256>, ChainError> {
        if let Some(price) = self.price.filter(|price| purpose.value > *price) {
            return Err(ChainError::Reverted(format!(
                "not sent: it costs {} by now, and {} was agreed to: ask again",
                self.amount(purpose.value),
                self.amount(price)
            )));
        }
        let Some(most) = self.bound() else {
            return Ok(None);
        };
        if self.consent != Consent::Unasked {
            return Ok(Some(most));
        }
        match most.checked_sub(purpose.value) {
            Some(left) => Ok(Some(left)),
            None => Err(ChainError::Reverted(format!(
                "not sent: it costs {} and its gas, and --max-fee allows {} for both: allow more",
                self.amount(purpose.value),
                self.amount(most)
            ))),
        }
    }

    fn amount(&self, wei: U256) -> String {
        coin::amount(self.chain_id, wei)
    }

    fn can_pay(&self, balance: U256, needed: U256) -> Result<(), ChainError> {
        match needed.checked_sub(balance) {
            None | Some(U256::ZERO) => Ok(()),
            Some(missing) => Err(ChainError::Reverted(format!(
                "insufficient funds: {} has {} and needs {}: {} is missing",
                self.address(),
                self.amount(balance),
                self.amount(needed),
                self.amount(missing)
            ))),
        }
    }

    async fn request(
        &self,
        purpose: &Purpose,
        nonce: u64,
    ) -> Result<TransactionRequest, ChainError> {
        Ok(TransactionRequest {
            from: Some(self.address()),
            to: Some(purpose.to.map_or(TxKind::Create, TxKind::Call)),
            value: Some(purpose.value),
            input: TransactionInput::new(purpose.data.clone()),
            nonce: Some(nonce),
            chain_id: Some(self.endpoint.chain_id().await?),
            ..TransactionRequest::default()
        })
    }

    async fn sign_for(
        &self,
        purpose: &Purpose,
        nonce: u64,
        gas: u64,
        fees: Fees,
    ) -> Result<Signed, ChainError> {
        let mut request = self.request(purpose, nonce).await?;
        request.set_gas_limit(gas);
        match fees.tip {
            Some(tip) => {
                request.set_max_fee_per_gas(fees.max_fee);
                request.set_max_priority_fee_per_gas(tip);
            }
            None => request.set_gas_price(fees.max_fee),
        }
        let envelope = self.signer.sign(request).await?;
        Ok(Signed {
            hash: *envelope.tx_hash(),
            raw: envelope.encoded_2718().into(),
            gas,
            max_fee: fees.max_fee,
            tip: fees.tip,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_no_chain_has_stop_nothing() {
        let most = u128::MAX;
        let fees = estimate(most, &[vec![most], vec![most]]);
        assert!(fees.max_fee_per_gas > most / 8);
        let usual = estimate(7, &[vec![2], vec![4]]);
        let tip = usual.max_priority_fee_per_gas;
        assert_eq!((usual.max_fee_per_gas, tip), (17, 3));
        assert_eq!((spare(100), spare(u64::MAX)), (125, u64::MAX));
    }
}
