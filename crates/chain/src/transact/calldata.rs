//! Calldata, for the senders here and for external wallets (`--print`).

use alloy::primitives::{Bytes, U256};
use alloy::sol_types::SolCall;

use crate::anchor::{self, Anchor};
use crate::contract::{PxSync, PxV1, PxV2};
use crate::dialect::Dialect;
use pxfs_base::types::TokenId;

/// Calldata of `mint(package, name)`.
#[must_use]
pub fn mint_calldata(package: u64, name: &str) -> Bytes {
    let call = PxSync::mint_0Call {
        packageId: U256::from(package),
        btnsKey: name.to_owned(),
    };
    call.abi_encode().into()
}

/// Calldata of `mint(package)`, without a name key.
#[must_use]
pub fn mint_bare_calldata(package: u64) -> Bytes {
    let call = PxSync::mint_1Call {
        packageId: U256::from(package),
    };
    call.abi_encode().into()
}

/// Calldata of `register(token, name)`.
#[must_use]
pub fn register_calldata(token: TokenId, name: &str) -> Bytes {
    let call = PxSync::registerCall {
        tokenId: token.0,
        btnsKey: name.to_owned(),
    };
    call.abi_encode().into()
}

/// Calldata of `upgradeTokenPackage(token, package)`.
#[must_use]
pub fn upgrade_calldata(token: TokenId, package: u64) -> Bytes {
    let call = PxSync::upgradeTokenPackageCall {
        tokenId: token.0,
        packageId: U256::from(package),
    };
    call.abi_encode().into()
}

/// Calldata of `buyMoreBandwidth(token, package)`.
#[must_use]
pub fn uploads_calldata(token: TokenId, package: u64) -> Bytes {
    let call = PxV2::buyMoreBandwidthCall {
        tokenId: token.0,
        bandwidthPackageId: U256::from(package),
    };
    call.abi_encode().into()
}

/// Calldata of `sync(token)`; its value is the contract's `syncFee()`.
#[must_use]
pub fn sync_calldata(token: TokenId) -> Bytes {
    PxSync::syncCall { tokenId: token.0 }.abi_encode().into()
}

/// Calldata that charges `token` for a commit: bytes, and upload units if the dialect has them.
#[must_use]
pub fn update_calldata(dialect: Dialect, token: TokenId, bytes: u64, units: u64) -> Bytes {
    let usage = U256::from(bytes);
    match dialect {
        Dialect::PxV1 => PxV1::updateStorageUsageCall {
            tokenId: token.0,
            usageInBytes: usage,
        }
        .abi_encode(),
        Dialect::PxV2 | Dialect::PxSync => PxV2::updateStorageUsageCall {
            tokenId: token.0,
            usageInBytes: usage,
            bandwidth: U256::from(units),
        }
        .abi_encode(),
    }
    .into()
}

/// Calldata that stores `anchor` beside `token`, on `px-v2`.
#[must_use]
pub fn anchor_calldata(token: TokenId, anchor: &Anchor) -> Bytes {
    let call = PxV2::addExtraContentCall {
        tokenId: token.0,
        hash: anchor::KEY.to_owned(),
        content: anchor.to_text(),
    };
    call.abi_encode().into()
}

pub(super) fn transfer_calldata(
    from: alloy::primitives::Address,
    to: alloy::primitives::Address,
    token: TokenId,
) -> Bytes {
    let call = PxSync::transferFromCall {
        from,
        to,
        tokenId: token.0,
    };
    call.abi_encode().into()
}
