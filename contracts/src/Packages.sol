// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {Owned} from "./Owned.sol";

/// @title The packages that can be minted, and their prices
/// @notice Package 0 is free, once an address. The size of a package never changes, so a token keeps
/// what was bought; its price and whether it is on sale are the contract owner's to set.
abstract contract Packages is Owned {
    using Strings for uint256;

    /// @notice A package as apps read it, field by field as the older contracts have it.
    struct Package {
        uint256 id;
        string name;
        /// In wei of the chain's own coin.
        uint256 price;
        /// In `storageUnit`.
        uint256 size;
        uint256 sizeInBytes;
        /// `MB` or `GB`, counted in powers of 1024.
        string storageUnit;
        /// The largest uint256: uploads are not counted here.
        uint256 bandwidthLimit;
        /// On sale.
        bool active;
    }

    struct Stored {
        uint128 price;
        uint64 sizeInGb;
        bool active;
    }

    uint256 private constant FREE_SIZE_IN_MB = 100;
    /// Keeps every size below 2^53, the greatest integer of the usage metadata.
    uint256 private constant MAX_SIZE_IN_GB = 2 ** 23 - 1;

    Stored[] private _packages;

    /// @notice Whether an address has minted its free package.
    mapping(address => bool) public pxFreePackage;

    event PackageAdded(uint256 indexed packageId, uint256 price, uint256 sizeInGb);
    event PackagePriceSet(uint256 indexed packageId, uint256 price);
    event PackageActiveSet(uint256 indexed packageId, bool active);

    constructor() {
        _packages.push(Stored({price: 0, sizeInGb: 0, active: true}));
        _addPackage(0.1 ether, 1);
        _addPackage(0.4 ether, 5);
        _addPackage(1.2 ether, 20);
    }

    /// @notice Puts a package on sale; it gets the next id. The contract's owner alone.
    function addNewPackage(uint256 price, uint256 sizeInGb) external onlyOwner {
        _addPackage(price, sizeInGb);
    }

    /// @notice Sets the price of a package, in wei. The contract's owner alone.
    function updatePackagePrice(uint256 packageId, uint256 price) external onlyOwner {
        require(packageId != 0, "package 0 is free");
        _package(packageId).price = _checkedPrice(price);
        emit PackagePriceSet(packageId, price);
    }

    /// @notice Puts a package on sale or takes it off. The contract's owner alone.
    function setPackageActive(uint256 packageId, bool active) external onlyOwner {
        _package(packageId).active = active;
        emit PackageActiveSet(packageId, active);
    }

    /// @notice All packages, on sale or not; a package's id is its index.
    function getAllPackages() external view returns (Package[] memory all) {
        all = new Package[](_packages.length);
        for (uint256 id = 0; id < all.length; ++id) {
            Stored storage stored = _packages[id];
            (uint256 size, string memory unit) = _sizeAndUnit(id);
            all[id] = Package({
                id: id,
                name: _packageName(id),
                price: stored.price,
                size: size,
                sizeInBytes: _sizeInBytes(id),
                storageUnit: unit,
                bandwidthLimit: type(uint256).max,
                active: stored.active
            });
        }
    }

    /// Takes the price of a package that is on sale, and notes the free one; reverts otherwise.
    function _buy(address buyer, uint256 packageId) internal {
        Stored storage stored = _package(packageId);
        require(stored.active, "package not on sale");
        require(msg.value == stored.price, "wrong price");
        if (packageId == 0) {
            require(!pxFreePackage[buyer], "free package already minted");
            pxFreePackage[buyer] = true;
        }
    }

    function _packageName(uint256 packageId) internal view returns (string memory) {
        (uint256 size, string memory unit) = _sizeAndUnit(packageId);
        return string.concat(size.toString(), unit);
    }

    function _sizeInBytes(uint256 packageId) internal view returns (uint256) {
        return packageId == 0 ? FREE_SIZE_IN_MB << 20 : uint256(_package(packageId).sizeInGb) << 30;
    }

    function _sizeAndUnit(uint256 packageId) internal view returns (uint256, string memory) {
        return packageId == 0 ? (FREE_SIZE_IN_MB, "MB") : (_package(packageId).sizeInGb, "GB");
    }

    function _addPackage(uint256 price, uint256 sizeInGb) private {
        require(sizeInGb != 0 && sizeInGb <= MAX_SIZE_IN_GB, "size out of range");
        _packages.push(Stored({price: _checkedPrice(price), sizeInGb: uint64(sizeInGb), active: true}));
        emit PackageAdded(_packages.length - 1, price, sizeInGb);
    }

    function _checkedPrice(uint256 price) private pure returns (uint128) {
        require(price <= type(uint128).max, "price out of range");
        return uint128(price);
    }

    function _package(uint256 packageId) private view returns (Stored storage) {
        require(packageId < _packages.length, "no such package");
        return _packages[packageId];
    }
}
