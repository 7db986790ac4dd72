//! Which accounts an owner has approved for its tokens (ERC-721), on contracts of every dialect.
//!
//! Called by `run`.

use alloy::eips::BlockId;
use alloy::primitives::Address;

use super::ChainError;
use super::contract::PxSync;
use super::endpoint::Endpoint;
use pxfs_base::types::TokenId;

/// Whether `owner` has approved `operator` for all its tokens of `contract`.
///
/// # Errors
/// As [`Endpoint::call`].
pub async fn of_all(
    endpoint: &Endpoint,
    contract: Address,
    owner: Address,
    operator: Address,
) -> Result<bool, ChainError> {
    let call = PxSync::isApprovedForAllCall { owner, operator };
    endpoint.call(contract, &call, BlockId::latest()).await
}

/// The account that is approved for `token` of `contract` alone; zero where none is.
///
/// # Errors
/// As [`Endpoint::call`].
pub async fn of_one(
    endpoint: &Endpoint,
    contract: Address,
    token: TokenId,
) -> Result<Address, ChainError> {
    let call = PxSync::getApprovedCall { tokenId: token.0 };
    endpoint.call(contract, &call, BlockId::latest()).await
}
