//! Signing: gas and fees, whether the account can pay, and the bytes.
//!
//! Invariant: a transaction that the node would not run, that the account cannot pay for, or that
//! costs more than was allowed is not signed. Called by `carry`.

use alloy::consensus::TxEnvelope;
use alloy::eips::eip2718::Encodable2718;
use alloy::network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder};
use alloy::primitives::utils::format_ether;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::providers::Provider;
use alloy::providers::utils::{Eip1559Estimation, Eip1559Estimator, eip1559_default_estimator};
use alloy::rpc::types::{TransactionInput, TransactionRequest};

use super::{Consent, Transactor};
use crate::chain::ChainError;
use crate::chain::outbox::{Purpose, Signed};

/// What the chain wants for one gas, in wei.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fees {
    pub(super) max_fee: u128,
    /// `None` on chains without EIP-1559.
    pub(super) tip: Option<u128>,
}

/// What something costs at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Gas.
    pub gas: u64,
    /// Coins for it, in wei.
    pub wei: U256,
}

/// The state may be another when it is mined; what is not used is not paid.
fn spare(gas: u64) -> u64 {
    gas.saturating_add(gas / 4)
}

/// alloy's rule (twice the base fee, and the median of what was paid beside it), for whatever numbers a
/// server has told.
fn estimate(base_fee: u128, rewards: &[Vec<u128>]) -> Eip1559Estimation {
    const MOST: u128 = u128::MAX >> 3;
    let bounded = |reward: &Vec<u128>| reward.iter().map(|one| MOST.min(*one)).collect();
    let rewards: Vec<Vec<u128>> = rewards.iter().map(bounded).collect();
    eip1559_default_estimator(MOST.min(base_fee), &rewards)
}

impl Transactor {
    /// What the chain wants now.
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

    /// What it would cost to send these (to whom, or `None` to create a contract), one behind the other,
    /// without value; the account has that much.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with what is missing, or why the chain would refuse one; else as
    /// [`Endpoint::fault`](crate::chain::endpoint::Endpoint::fault).
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

    /// What the gas of a call with `value` would cost at most, now.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] where the chain would refuse it, or the account cannot pay.
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

    /// Signs `purpose` at `nonce`, for what the chain wants now, where its gas does not cost more than
    /// allowed. A node runs it for that, so here a
    /// revert comes out.
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
        let gas = spare(gas);
        let fees = self.fees().await?;
        let cost = U256::from(gas) * U256::from(fees.max_fee);
        if let Some(most) = gas_cost_max
            && cost > most
        {
            let (cost, most) = (format_ether(cost), format_ether(most));
            let allowed = match self.consent {
                Consent::Agreed => format!("{most} was agreed to: ask again"),
                _ => format!("--max-fee allows {most}: try later, or allow more"),
            };
            return Err(ChainError::Reverted(format!(
                "not sent: its gas may cost {cost}, and {allowed}"
            )));
        }
        self.can_pay(balance, purpose.value.saturating_add(cost))?;
        self.sign_for(purpose, nonce, gas, fees).await
    }

    /// Signs `purpose` at `nonce` in place of `before`, for at most `max_fee` wei a gas.
    pub(super) async fn sign_instead(
        &self,
        purpose: &Purpose,
        nonce: u64,
        before: &Signed,
        max_fee: u128,
    ) -> Result<Signed, ChainError> {
        let fees = self.fees().await?;
        // Nodes want more of both.
        let tip = before.tip.map(|paid| {
            let tip = fees.tip.unwrap_or_default();
            tip.max(paid + paid / 8 + 1).min(max_fee)
        });
        let fees = Fees { max_fee, tip };
        self.sign_for(purpose, nonce, before.gas, fees).await
    }

    /// A transfer of nothing to ourselves, for a nonce that must be had by something: nobody asks for that.
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

    /// The most that is paid for one gas of something of which `first` was signed first, in wei.
    pub(super) fn fee_cap(&self, first: &Signed, gas_cost_max: Option<U256>) -> u128 {
        match gas_cost_max {
            Some(most) => u128::try_from(most / U256::from(first.gas.max(1))).unwrap_or(u128::MAX),
            None => first.max_fee.saturating_mul(10),
        }
    }

    /// The most that the gas of `purpose` may cost, in wei: what is sent unasked has no price that somebody
    /// has seen and agreed to, so there the value counts too.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] where the value is more than may be spent, or was agreed to.
    pub(super) fn gas_cap(&self, purpose: &Purpose) -> Result<Option<U256>, ChainError> {
        if let Some(price) = self.price.filter(|price| purpose.value > *price) {
            return Err(ChainError::Reverted(format!(
                "not sent: it costs {} by now, and {} was agreed to: ask again",
                format_ether(purpose.value),
                format_ether(price)
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
                format_ether(purpose.value),
                format_ether(most)
            ))),
        }
    }

    fn can_pay(&self, balance: U256, needed: U256) -> Result<(), ChainError> {
        match needed.checked_sub(balance) {
            None | Some(U256::ZERO) => Ok(()),
            Some(missing) => Err(ChainError::Reverted(format!(
                "insufficient funds: {} has {} and needs {}: {} is missing",
                self.address(),
                format_ether(balance),
                format_ether(needed),
                format_ether(missing)
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
        let wallet = EthereumWallet::from(self.signer.clone());
        let signed = request.build(&wallet).await;
        let envelope: TxEnvelope =
            signed.map_err(|fault| ChainError::Permanent(format!("cannot be signed: {fault}")))?;
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
