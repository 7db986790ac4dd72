//! Token actions: mint, register, upgrade, transfer.
//!
//! Invariant: each waits until it is mined and took effect, and returns what the contract's events
//! say.

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolEvent;

use super::calldata::{
    mint_bare_calldata, mint_calldata, register_calldata, transfer_calldata, update_calldata,
    upgrade_calldata,
};
use super::{Mined, Transactor};
use crate::ChainError;
use crate::contract::{PxSync, PxV2};
use crate::dialect::Dialect;
use crate::endpoint::WITHOUT_REASON;
use crate::outbox::Purpose;
use pxfs_base::types::TokenId;

/// A token that was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minted {
    /// The new token.
    pub token: TokenId,
    /// The transaction.
    pub mined: Mined,
    /// The nonce of its name key, if minted with one.
    pub nonce: u64,
}

/// A token with a new name key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The transaction.
    pub mined: Mined,
    /// The key's nonce.
    pub nonce: u64,
}

impl Transactor {
    /// Mints a token of `package` with the name key `name`, in the transaction with this `nonce`.
    ///
    /// # Errors
    /// [`ChainError::Missing`] for an unknown package, [`ChainError::Reverted`] with the reason,
    /// [`ChainError::Transient`] if the nonce was taken meanwhile (derive the next key).
    pub async fn mint(
        &self,
        contract: Address,
        package: u64,
        name: &str,
        nonce: u64,
    ) -> Result<Minted, ChainError> {
        let price = self.price(contract, package).await?;
        let data = mint_calldata(package, name);
        let what = (package, price);
        self.buy(contract, what, data, Some(nonce)).await
    }

    /// Mints a token of `package` without a name key, as a block explorer does.
    ///
    /// # Errors
    /// As [`Transactor::mint`].
    pub async fn mint_bare(&self, contract: Address, package: u64) -> Result<Minted, ChainError> {
        let price = self.price(contract, package).await?;
        self.mint_for(contract, package, price).await
    }

    /// Mints a token of `package` for a known price in wei, without a name key: the only way on `px-v1` and
    /// `px-v2`.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason.
    pub async fn mint_for(
        &self,
        contract: Address,
        package: u64,
        price: U256,
    ) -> Result<Minted, ChainError> {
        let data = mint_bare_calldata(package);
        let bought = self.buy(contract, (package, price), data, None).await;
        if let Err(ChainError::Reverted(why)) = &bought
            && why == WITHOUT_REASON
            && self.is_paused(contract).await
        {
            // `px-v2` refuses it without words.
            let line = "the contract has paused minting: try later";
            return Err(ChainError::Reverted(line.to_owned()));
        }
        bought
    }

    async fn is_paused(&self, contract: Address) -> bool {
        let call = PxV2::pausedCall {};
        let paused = self.endpoint.call(contract, &call, BlockId::latest());
        paused.await.is_ok_and(|paused| !paused.is_zero())
    }

    /// Reports an empty upload to a `px-v1` or `px-v2` contract, which renews the time of the last update.
    /// Idempotent.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason: `No bandwidth` without upload units.
    pub async fn renew(
        &self,
        contract: Address,
        dialect: Dialect,
        token: TokenId,
    ) -> Result<Mined, ChainError> {
        let data = update_calldata(dialect, token, 0, 0);
        let tag = format!("renew {contract} {token}");
        self.act(tag, contract, data, U256::ZERO).await
    }

    /// Sends a call under `tag`, or waits for the same one that an earlier process left pending.
    async fn act(
        &self,
        tag: String,
        contract: Address,
        data: Bytes,
        value: U256,
    ) -> Result<Mined, ChainError> {
        let purpose = Purpose {
            to: Some(contract),
            data,
            value,
            bound: false,
        };
        Ok(self.send_as(tag, purpose, None).await?.mined())
    }

    async fn buy(
        &self,
        contract: Address,
        (package, price): (u64, U256),
        data: Bytes,
        nonce: Option<u64>,
    ) -> Result<Minted, ChainError> {
        let purpose = Purpose {
            to: Some(contract),
            data,
            value: price,
            bound: nonce.is_some(),
        };
        let tag = format!("mint {contract} {package}");
        let sent = self.send_as(tag, purpose, nonce).await?;
        let logs = sent
            .receipt
            .logs()
            .iter()
            .filter(|log| log.address() == contract);
        let mut transfers = logs.filter_map(|log| PxSync::Transfer::decode_log(&log.inner).ok());
        let minted = transfers.find(|log| log.from.is_zero() && log.to == self.address());
        let minted = minted.ok_or_else(|| {
            ChainError::Permanent(format!("contract {contract} minted without saying what"))
        })?;
        Ok(Minted {
            token: TokenId(minted.tokenId),
            mined: sent.mined(),
            nonce: sent.nonce,
        })
    }

    /// The price of `package`, wei.
    ///
    /// # Errors
    /// [`ChainError::Missing`] for an unknown package.
    pub async fn price(&self, contract: Address, package: u64) -> Result<U256, ChainError> {
        let call = PxSync::getAllPackagesCall {};
        let all = self
            .endpoint
            .call(contract, &call, BlockId::latest())
            .await?;
        let found = all.iter().find(|one| one.id == U256::from(package));
        found.map(|one| one.price).ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|one| one.id.to_string()).collect();
            let known = known.join(", ");
            ChainError::Missing(format!(
                "package {package} does not exist: give one of {known}"
            ))
        })
    }

    /// Assigns the name key `name` to `token`, in the transaction with this `nonce`.
    ///
    /// # Errors
    /// As [`Transactor::mint`].
    pub async fn register(
        &self,
        contract: Address,
        token: TokenId,
        name: &str,
        nonce: u64,
    ) -> Result<Registered, ChainError> {
        let data = register_calldata(token, name);
        let tag = format!("register {contract} {token}");
        let purpose = Purpose {
            to: Some(contract),
            data,
            value: U256::ZERO,
            bound: true,
        };
        let sent = self.send_as(tag, purpose, Some(nonce)).await?;
        Ok(Registered {
            mined: sent.mined(),
            nonce: sent.nonce,
        })
    }

    /// Moves `token` to a larger package.
    ///
    /// # Errors
    /// As [`Transactor::mint`].
    pub async fn upgrade(
        &self,
        contract: Address,
        token: TokenId,
        package: u64,
    ) -> Result<Mined, ChainError> {
        let price = self.price(contract, package).await?;
        let data = upgrade_calldata(token, package);
        let tag = format!("upgrade {contract} {token} {package}");
        self.buy_for(contract, tag, data, price).await
    }

    /// Pays `price` for the call `data` to `contract`; `tag` describes it.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason.
    pub async fn buy_for(
        &self,
        contract: Address,
        tag: String,
        data: Bytes,
        price: U256,
    ) -> Result<Mined, ChainError> {
        self.act(tag, contract, data, price).await
    }

    /// Transfers `token` to another account.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] if it is not ours.
    pub async fn transfer(
        &self,
        contract: Address,
        token: TokenId,
        to: Address,
    ) -> Result<Mined, ChainError> {
        let data = transfer_calldata(self.address(), to, token);
        let tag = format!("transfer {contract} {token} {to}");
        self.act(tag, contract, data, U256::ZERO).await
    }
}
