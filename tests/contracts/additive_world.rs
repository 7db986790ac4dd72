//! The contracts of the older dialects, freshly deployed, and the people around them.
//!
//! Both answer most functions alike, so both are called through the newer one's interface; what
//! differs goes through the functions here.

use alloy::contract::RawCallBuilder;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::TransactionRequest;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue};

use crate::harness::{self, Chain};
use crate::world::{done, minted};

/// The contract that counts uploads.
pub(crate) mod v2 {
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug, PartialEq, Eq)]
        PxV2,
        "contracts/artifacts/PxV2.json"
    );
}
/// The contract that does not.
pub(crate) mod v1 {
    alloy::sol!(
        #[sol(rpc)]
        #[derive(Debug, PartialEq, Eq)]
        PxV1,
        "contracts/artifacts/PxV1.json"
    );
}

pub(crate) use v1::PxV1;
pub(crate) use v2::PxV2;

/// The older dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    V1,
    V2,
}

/// One contract and the people around it.
pub(crate) struct World {
    pub(crate) old: Old,
    /// The contract; of an older one only what both have may be called through this.
    pub(crate) px: PxV2::PxV2Instance<DynProvider>,
    pub(crate) chain: Chain,
    /// Owns the contract.
    pub(crate) owner: Address,
    pub(crate) alice: Address,
    pub(crate) bob: Address,
}

/// Both.
pub(crate) const BOTH: [Old; 2] = [Old::V1, Old::V2];

impl World {
    /// Deploys the contract; its package 1 has 1 GiB and 50 uploads for 7 wei.
    pub(crate) async fn new(old: Old) -> Self {
        let people: [PrivateKeySigner; 3] = std::array::from_fn(|_| PrivateKeySigner::random());
        let chain = harness::chain(&people).await;
        let [owner, alice, bob] = people.map(|signer| signer.address());
        let provider = chain.provider.clone();
        let receipt = match old {
            Old::V1 => done(PxV1::deploy_builder(provider.clone()).from(owner)).await,
            Old::V2 => done(PxV2::deploy_builder(provider.clone()).from(owner)).await,
        };
        let address = receipt.contract_address.expect("a new contract");
        let world = Self {
            old,
            px: PxV2::new(address, provider),
            chain,
            owner,
            alice,
            bob,
        };
        let (price, size) = (U256::from(7), U256::ONE);
        match old {
            Old::V1 => done(world.v1().addNewPackage(price, size).from(owner)).await,
            Old::V2 => {
                let package = world.px.addNewPackage(price, size, U256::from(50));
                done(package.from(owner)).await
            }
        };
        world
    }

    /// The contract as the older one's interface calls it.
    pub(crate) fn v1(&self) -> PxV1::PxV1Instance<DynProvider> {
        PxV1::new(*self.px.address(), self.chain.provider.clone())
    }

    /// Mints the free package; answers the token.
    pub(crate) async fn mint(&self, who: Address) -> U256 {
        minted(&done(self.px.mint(U256::ZERO).from(who)).await)
    }

    /// `updateStorageUsage`; the older contract knows no units.
    pub(crate) fn update(
        &self,
        token: U256,
        bytes: u64,
        units: u64,
    ) -> RawCallBuilder<&DynProvider> {
        let bytes = U256::from(bytes);
        let data = match self.old {
            Old::V1 => PxV1::updateStorageUsageCall {
                tokenId: token,
                usageInBytes: bytes,
            }
            .abi_encode(),
            Old::V2 => PxV2::updateStorageUsageCall {
                tokenId: token,
                usageInBytes: bytes,
                bandwidth: U256::from(units),
            }
            .abi_encode(),
        };
        RawCallBuilder::new_raw(&self.chain.provider, data.into()).to(*self.px.address())
    }

    /// Who may write the usage of alice's tokens.
    pub(crate) fn reporter(&self) -> Address {
        match self.old {
            Old::V1 => self.owner,
            Old::V2 => self.alice,
        }
    }

    /// `canUpload`, as bytes.
    pub(crate) async fn can_upload_raw(&self, token: U256, more: u64) -> Bytes {
        let call = PxV2::canUploadCall {
            tokenId: token,
            newUsage: U256::from(more),
        };
        self.raw(call.abi_encode()).await
    }

    /// Whether so many more bytes can be uploaded.
    pub(crate) async fn can_upload(&self, token: U256, more: u64) -> bool {
        let answer = self.can_upload_raw(token, more).await;
        bool::abi_decode(&answer[..32]).expect("a bool first")
    }

    /// What a read answers, as bytes.
    pub(crate) async fn raw(&self, data: Vec<u8>) -> Bytes {
        let request = TransactionRequest::default()
            .to(*self.px.address())
            .input(data.into());
        self.chain.provider.call(request).await.expect("an answer")
    }

    /// Bytes in use.
    pub(crate) async fn usage(&self, token: U256) -> u64 {
        let usage = self.px.getStorageUsageInBytes(token).call().await;
        usage.expect("usage").to()
    }

    /// Timestamp of a token's last update.
    pub(crate) async fn updated(&self, token: U256) -> u64 {
        let updated = match self.old {
            Old::V1 => {
                let read = self.v1().pxStorage(token).call().await;
                read.expect("a token").lastUpdateTimestamp
            }
            Old::V2 => {
                let read = self.px.pxStorage(token).call().await;
                read.expect("a token").lastUpdateTimestamp
            }
        };
        updated.to()
    }

    /// Upload units left.
    pub(crate) async fn units(&self, token: U256) -> u64 {
        let read = self.px.pxStorage(token).call().await;
        read.expect("a token").bandwidth.to()
    }

    /// Lets chain time pass.
    pub(crate) async fn advance(&self, seconds: u64) {
        let now = self.chain.now().await;
        self.chain.mine_at(now + seconds).await;
    }
}
