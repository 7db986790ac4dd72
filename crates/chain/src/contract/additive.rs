//! The interfaces of the older dialects, `px-v2` and `px-v1`.
//!
//! Invariant: a test compares them with the artifacts of test contracts that behave as the deployed
//! ones.

#![allow(missing_docs, unreachable_pub, reason = "made by a macro")]

use alloy::sol;

sol! {
    /// `px-v2`, and what `px-v1` shares with it.
    #[derive(Debug)]
    interface IPxV2 {
        struct Package {
            uint256 id;
            string name;
            uint256 price;
            uint256 size;
            uint256 sizeInBytes;
            string storageUnit;
            uint256 bandwidthLimit;
            uint256 active;
        }

        function _tokenIds() external view returns (uint256);
        function balanceOf(address owner) external view returns (uint256);
        function ownerOf(uint256 tokenId) external view returns (address);
        function pxStorage(uint256 tokenId) external view returns (
            string memory name, uint256 usage, uint256 usagePercentage, uint256 size, uint256 sizeInBytes,
            string memory storageUnit, uint256 buyTimestamp, uint256 lastUpdateTimestamp, uint256 bandwidth);
        function getStorageUsageInBytes(uint256 tokenId) external view returns (uint256);
        function canUpload(uint256 tokenId, uint256 newUsage) external view
            returns (bool can, bool sizeOrBandwidthExceeded, bool timestampLock);
        function updateStorageUsage(uint256 tokenId, uint256 usageInBytes, uint256 bandwidth) external;
        function getAllPackages() external view returns (Package[] memory);
        function paused() external view returns (uint256);

        struct BandwidthPackage {
            uint256 id;
            string name;
            uint256 price;
            uint256 bandwidth;
            uint256 active;
        }

        function getAllBandwidthPackages() external view returns (BandwidthPackage[] memory);
        function buyMoreBandwidth(uint256 tokenId, uint256 bandwidthPackageId) external payable;
        function addExtraContent(uint256 tokenId, string calldata hash, string calldata content) external;
        function getExtraContent(uint256 tokenId, string calldata hash) external view returns (string memory);
    }

    /// Where `px-v1` differs.
    #[derive(Debug)]
    interface IPxV1 {
        struct Package {
            uint256 id;
            string name;
            uint256 price;
            uint256 size;
            uint256 sizeInBytes;
            string storageUnit;
            uint256 active;
        }

        function pxStorage(uint256 tokenId) external view returns (
            string memory name, uint256 usage, uint256 usagePercentage, uint256 size, uint256 sizeInBytes,
            string memory storageUnit, uint256 buyTimestamp, uint256 lastUpdateTimestamp);
        function canUpload(uint256 tokenId, uint256 newUsage) external view returns (bool);
        function updateStorageUsage(uint256 tokenId, uint256 usageInBytes) external;
        function getAllPackages() external view returns (Package[] memory);
        function pxStoragePackage(uint256 packageId) external view returns (
            string memory name, uint256 price, uint256 size, uint256 sizeInBytes,
            string memory storageUnit, uint256 active);
    }
}
