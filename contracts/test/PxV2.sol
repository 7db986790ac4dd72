// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {Additive} from "./Additive.sol";

/// @title Storage tokens that speak `px-v2`
/// @notice For the tests: answers and refuses as the contracts that are deployed today.
contract PxV2 is Additive {
    using Strings for uint256;

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

    struct BandwidthPackage {
        uint256 id;
        string name;
        uint256 price;
        uint256 bandwidth;
        uint256 active;
    }

    struct Content {
        string text;
        bool known;
    }

    /// Seconds after which a token that was not updated may not upload.
    uint256 private constant LOCK = 30 days;

    BandwidthPackage[] private _bandwidths;
    mapping(uint256 => mapping(bytes32 => Content)) private _contents;

    /// @notice Adds what an upload has stored, and takes the upload units that it cost: the token's
    /// owner, who is approved for it, or the contract's owner.
    function updateStorageUsage(uint256 tokenId, uint256 usageInBytes, uint256 bandwidth) external {
        require(_ownerOf(tokenId) != address(0));
        require(_mayUse(tokenId) || owner() == msg.sender, "!owner");
        _charge(tokenId, usageInBytes);
        Token storage token = _tokens[tokenId];
        require(token.bandwidth > 0, "No bandwidth");
        token.bandwidth = token.bandwidth > bandwidth ? token.bandwidth - bandwidth : 0;
        _describe(tokenId);
    }

    function buyMoreBandwidth(uint256 tokenId, uint256 bandwidthPackageId) external payable {
        require(_mayUse(tokenId), "!owner");
        BandwidthPackage storage package = _bandwidths[bandwidthPackageId];
        require(msg.value == package.price, "Bandwidth price");
        _tokens[tokenId].bandwidth += package.bandwidth;
        _describe(tokenId);
    }

    /// @notice Keeps a text under a key: the token's owner, or who is approved for it.
    function addExtraContent(uint256 tokenId, string calldata hash, string calldata content) external {
        require(_mayUse(tokenId), "!owner");
        _contents[tokenId][keccak256(bytes(hash))] = Content(content, true);
    }

    function unlockUploading(uint256 tokenId) external onlyOwner {
        require(_ownerOf(tokenId) != address(0));
        _tokens[tokenId].lastUpdateTimestamp = block.timestamp;
    }

    function addNewPackage(uint256 price, uint256 sizeInGb, uint256 bandwidthLimit) external onlyOwner {
        _addPlan(price, sizeInGb, bandwidthLimit);
    }

    function addNewBandwidthPackage(uint256 price, uint256 bandwidth) external onlyOwner {
        _bandwidths.push(BandwidthPackage(_bandwidths.length, bandwidth.toString(), price, bandwidth, 1));
    }

    /// @notice The last token's id; ids count from 1.
    function _tokenIds() external view returns (uint256) {
        return _lastId;
    }

    function getExtraContent(uint256 tokenId, string calldata hash) external view returns (string memory) {
        Content storage content = _contents[tokenId][keccak256(bytes(hash))];
        require(content.known, "Invalid Hash");
        return content.text;
    }

    function canUpload(uint256 tokenId, uint256 newUsage)
        external
        view
        returns (bool can, bool sizeOrBandwidthExceeded, bool timestampLock)
    {
        sizeOrBandwidthExceeded = _full(tokenId, newUsage) || _tokens[tokenId].bandwidth == 0;
        timestampLock = block.timestamp - _tokens[tokenId].lastUpdateTimestamp > LOCK;
        can = !sizeOrBandwidthExceeded && !timestampLock;
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
            uint256 lastUpdateTimestamp,
            uint256 bandwidth
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
        bandwidth = token.bandwidth;
    }

    function getAllPackages() external view returns (Package[] memory all) {
        all = new Package[](_plans.length);
        for (uint256 id = 0; id < all.length; ++id) {
            Plan storage plan = _plans[id];
            all[id] = Package(
                id,
                plan.name,
                plan.price,
                plan.size,
                plan.sizeInBytes,
                plan.storageUnit,
                plan.bandwidthLimit,
                plan.active
            );
        }
    }

    function getAllBandwidthPackages() external view returns (BandwidthPackage[] memory) {
        return _bandwidths;
    }

    function _moreAttributes(Token storage token) internal view override returns (string memory) {
        return string.concat(',{"trait_type": "Bandwidth","value": "', token.bandwidth.toString(), '"}');
    }
}
