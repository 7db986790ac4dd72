// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Additive} from "./Additive.sol";

/// @title Storage tokens that speak `px-v1`
/// @notice For the tests: answers and refuses as the older contracts, which count no uploads.
contract PxV1 is Additive {
    struct Package {
        uint256 id;
        string name;
        uint256 price;
        uint256 size;
        uint256 sizeInBytes;
        string storageUnit;
        uint256 active;
    }

    /// @notice Adds what an upload has stored: the token's owner, who is approved for it, or the
    /// contract's owner.
    function updateStorageUsage(uint256 tokenId, uint256 usageInBytes) external {
        _charge(tokenId, usageInBytes);
        _describe(tokenId);
    }

    function addNewPackage(uint256 price, uint256 sizeInGb) external onlyOwner {
        _addPlan(price, sizeInGb, 0);
    }

    function canUpload(uint256 tokenId, uint256 newUsage) external view returns (bool) {
        return !_full(tokenId, newUsage) && !_locked(tokenId);
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

    function getAllPackages() external view returns (Package[] memory all) {
        all = new Package[](_plans.length);
        for (uint256 id = 0; id < all.length; ++id) {
            Plan storage plan = _plans[id];
            all[id] = Package(
                id, plan.name, plan.price, plan.size, plan.sizeInBytes, plan.storageUnit, plan.active
            );
        }
    }

    function _moreAttributes(Token storage) internal pure override returns (string memory) {
        return "";
    }
}
