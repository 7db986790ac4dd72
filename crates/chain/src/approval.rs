//! ERC-721 approvals, on contracts of every dialect.

use alloy::eips::BlockId;
use alloy::primitives::Address;

use super::ChainError;
use super::contract::PxSync;
use super::endpoint::Endpoint;
use pxfs_base::types::TokenId;

/// Whether `operator` may move all tokens of `owner` on `contract`.
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

/// The account approved for `token` alone; zero if none.
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
