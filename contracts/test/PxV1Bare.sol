// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Additive} from "./Additive.sol";

/// @title Storage tokens that speak `px-v1`, in the oldest form
/// @notice For the tests: answers and refuses as the older contracts. They count no uploads, know no
/// lock, and let the contract's owner alone report usage. This form lists neither packages nor tokens.
contract PxV1Bare is Additive {
    /// @notice Adds what an upload has stored.
    function updateStorageUsage(uint256 tokenId, uint256 usageInBytes) external onlyOwner {
        require(_ownerOf(tokenId) != address(0), "Incorrect tokenId");
        _charge(tokenId, usageInBytes);
        _describe(tokenId);
    }

    function addNewPackage(uint256 price, uint256 sizeInGb) external onlyOwner {
        _addPlan(price, sizeInGb, 0);
    }

    function canUpload(uint256 tokenId, uint256 newUsage) external view returns (bool) {
        return !_full(tokenId, newUsage);
    }

    /// @notice One package; one that does not exist reads as zeros.
    function pxStoragePackage(uint256 packageId)
        external
        view
        returns (
            string memory name,
            uint256 price,
            uint256 size,
            uint256 sizeInBytes,
            string memory storageUnit,
            uint256 active
        )
    {
        if (packageId >= _plans.length) return (name, 0, 0, 0, storageUnit, 0);
        Plan storage plan = _plans[packageId];
        return (plan.name, plan.price, plan.size, plan.sizeInBytes, plan.storageUnit, plan.active);
    }

    function pxStorage(uint256 tokenId)
        external
        view
        returns (
            string memory name,
            uint256 usage,
            uint256 usagePercentage,
            uint256 size,
            uint256 sizeInBytes,
            string memory storageUnit,
            uint256 buyTimestamp,
            uint256 lastUpdateTimestamp
        )
    {
        Token storage token = _tokens[tokenId];
        name = token.name;
        usage = token.usage;
        usagePercentage = _percentage(token);
        size = token.size;
        sizeInBytes = token.sizeInBytes;
        storageUnit = token.storageUnit;
        buyTimestamp = token.buyTimestamp;
        lastUpdateTimestamp = token.lastUpdateTimestamp;
    }

    function _moreAttributes(Token storage) internal pure override returns (string memory) {
        return "";
    }
}
