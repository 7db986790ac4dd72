// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {PxV1Bare} from "./PxV1Bare.sol";

/// @title Storage tokens that speak `px-v1`
/// @notice For the tests: the form that lists its packages and counts its tokens.
contract PxV1 is PxV1Bare {
    struct Package {
        uint256 id;
        string name;
        uint256 price;
        uint256 size;
        uint256 sizeInBytes;
        string storageUnit;
        uint256 active;
    }

    /// @notice The last token's id; ids count from 1.
    function _tokenIds() external view returns (uint256) {
        return _lastId;
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
}
