//! Deploys the `px-sync` contracts.
//!
//! Invariant: the highest cost is known before signing; repeating an aborted deployment resumes it.

use std::sync::Arc;

use alloy::primitives::{Address, U256};

use super::build::main_chain;
use super::connect::{ConnectedChain, connect};
use super::embedded::outbox;
use super::signing::open_signer;
use crate::chain::deploy::{self, Forwarder};
use crate::chain::transact::Transactor;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::status::DeployAnswer;

/// A prepared deployment.
pub struct Deployer {
    connected: ConnectedChain,
    payer: Transactor,
    forwarder: Forwarder,
}

/// Its cost.
#[derive(Clone, Debug)]
pub struct Price {
    /// EIP-155 id of the chain.
    pub chain_id: u64,
    /// The endpoint's scheme and host.
    pub at: String,
    /// Who pays, and owns the contracts.
    pub owner: Address,
    /// Gas, with spare.
    pub gas: u64,
    /// Its highest cost, wei.
    pub cost_wei: U256,
}

impl Deployer {
    /// Connects to the chain. Without `operators` the owner is the only one; a given `forwarder` is trusted,
    /// and none is deployed. The caller owns the state folder.
    ///
    /// # Errors
    /// One line each, with its exit code.
    pub async fn new(
        config: &Config,
        operators: &[Address],
        threshold: Option<u64>,
        forwarder: Option<Address>,
    ) -> anyhow::Result<Self> {
        let signer = open_signer(config).await?;
        let connected = connect(config, main_chain(config), &(Arc::new(SystemClock) as _)).await?;
        let payer = Transactor::signed_by(connected.endpoint.clone(), signer)
            .kept_in(&outbox(&config.state_dir))
            .on_chain(connected.chain_id)
            .with_gas_cost_max(config.max_fee)
            .with_confirmations(config.confirmations);
        let forwarder = match forwarder {
            Some(forwarder) => Forwarder::There(forwarder),
            None => {
                let operators = match operators.is_empty() {
                    true => vec![payer.address()],
                    false => operators.to_vec(),
                };
                let most = operators.len() as u64;
                Forwarder::New(operators, threshold.unwrap_or(most))
            }
        };
        Ok(Self {
            connected,
            payer,
            forwarder,
        })
    }

    /// The cost; the account has that much.
    ///
    /// # Errors
    /// [`ChainError::Reverted`](crate::chain::ChainError) with what is missing, or why the chain would
    /// refuse it; else the chain's.
    pub async fn price(&self) -> anyhow::Result<Price> {
        let cost = deploy::cost(&self.payer, &self.forwarder).await?;
        Ok(Price {
            chain_id: self.connected.chain_id,
            at: self.connected.endpoint.current().to_string(),
            owner: self.payer.address(),
            gas: cost.gas,
            cost_wei: cost.wei,
        })
    }

    /// For a user who has not agreed to the price: each transaction costs at most `--max-fee`, or a
    /// tenth of a coin.
    #[must_use]
    pub fn unseen(self) -> Self {
        Self {
            payer: self.payer.unseen(),
            ..self
        }
    }

    /// Deploys; no transaction costs more than `agreed` wei, or the limit of [`Deployer::unseen`].
    ///
    /// # Errors
    /// As [`deploy::deploy_with`].
    pub async fn deploy(&self, agreed: Option<U256>) -> anyhow::Result<DeployAnswer> {
        let payer = self.payer.clone();
        let payer = match agreed {
            Some(most) => payer.agreed(most),
            None => payer,
        };
        let made = deploy::deploy_with(&payer, &self.forwarder).await?;
        Ok(DeployAnswer {
            chain_id: made.chain_id,
            contract: format!("{:#x}", made.contract),
            forwarder: format!("{:#x}", made.forwarder),
            block: made.block,
        })
    }

    /// Releases the chain.
    pub async fn close(self) {
        drop(self.payer);
        if let Some((chain, _)) = self.connected.embedded {
            let closed = tokio::task::spawn_blocking(move || chain.close()).await;
            if closed.is_err() {
                tracing::error!("the embedded chain did not end in order");
            }
        }
    }
}
