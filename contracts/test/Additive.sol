// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

/// @title What `px-v1` and `px-v2` have in common
/// @notice For the tests: storage tokens as they are deployed, whose usage is added up and never
/// falls. Many refusals have no words, reads of a token that does not exist answer zeros, and a
/// wallet's tokens cannot be listed.
abstract contract Additive is ERC721, Ownable {
    using Strings for uint256;

    struct Plan {
        string name;
        uint256 price;
        uint256 size;
        uint256 sizeInBytes;
        string storageUnit;
        uint256 bandwidthLimit;
        uint256 active;
    }

    struct Token {
        string name;
        uint256 usage;
        uint256 size;
        uint256 sizeInBytes;
        string storageUnit;
        uint256 buyTimestamp;
        uint256 lastUpdateTimestamp;
        uint256 bandwidth;
    }

    /// The last token's id; ids count from 1.
    uint256 internal _lastId;
    /// @notice 1 while nothing can be minted; nothing else stops.
    uint256 public paused;
    /// @notice 1 for an address that has minted its free package.
    mapping(address => uint256) public pxFreePackage;

    Plan[] internal _plans;
    mapping(uint256 => Token) internal _tokens;
    mapping(uint256 => string) private _texts;

    constructor() ERC721("PollinationX", "PXS") Ownable(msg.sender) {
        _plans.push(Plan("100MB", 0, 100, 104857600, "MB", 25, 1));
    }

    // ------------------------------------------------------------------------------- owners

    function mint(uint256 packageId) external payable {
        require(paused == 0);
        Plan storage plan = _plans[packageId];
        require(plan.active == 1);
        require(msg.value == plan.price);
        if (packageId == 0) {
            require(pxFreePackage[msg.sender] != 1, "Already minted");
            pxFreePackage[msg.sender] = 1;
        }
        uint256 tokenId = ++_lastId;
        Token storage token = _tokens[tokenId];
        token.name = plan.name;
        token.buyTimestamp = block.timestamp;
        _grant(token, plan);
        _describe(tokenId);
        _safeMint(msg.sender, tokenId);
    }

    function upgradeTokenPackage(uint256 tokenId, uint256 packageId) external payable {
        require(_mayUse(tokenId));
        Plan storage plan = _plans[packageId];
        Token storage token = _tokens[tokenId];
        require(plan.sizeInBytes > token.sizeInBytes);
        require(msg.value == plan.price, "Storage price");
        _grant(token, plan);
        _describe(tokenId);
    }

    function updateTokenPackageName(uint256 tokenId, string calldata name) external {
        require(_mayUse(tokenId), "!owner");
        _tokens[tokenId].name = name;
    }

    // --------------------------------------------------------------------- contract's owner

    function pause(uint256 state) external onlyOwner {
        paused = state;
    }

    function updatePackagePrice(uint256 packageId, uint256 price) external onlyOwner {
        _plans[packageId].price = price;
    }

    function activateDeactivatePackage(uint256 packageId, uint256 active) external onlyOwner {
        _plans[packageId].active = active;
    }

    // -------------------------------------------------------------------------------- reads

    function getStorageUsageInBytes(uint256 tokenId) external view returns (uint256) {
        return _tokens[tokenId].usage;
    }

    /// @notice Kept as text, as it was at the last change of the token: that is what each change costs.
    function tokenURI(uint256 tokenId) public view override returns (string memory) {
        require(_ownerOf(tokenId) != address(0), "ERC721: invalid token ID");
        return _texts[tokenId];
    }

    /// @dev The words are those of the library that the deployed contracts were built with.
    function ownerOf(uint256 tokenId) public view override returns (address owner) {
        owner = _ownerOf(tokenId);
        require(owner != address(0), "ERC721: invalid token ID");
    }

    // ------------------------------------------------------------------------------- shared

    /// Adds usage and renews the time: the caller checks who may do that, and what else must be true.
    function _charge(uint256 tokenId, uint256 usageInBytes) internal {
        Token storage token = _tokens[tokenId];
        uint256 usage = token.usage + usageInBytes;
        require(usage <= token.sizeInBytes, "Storage full");
        token.usage = usage;
        token.lastUpdateTimestamp = block.timestamp;
    }

    /// Writes the text of a token anew, with its picture.
    function _describe(uint256 tokenId) internal {
        Token storage token = _tokens[tokenId];
        string memory capacity = string.concat(token.size.toString(), token.storageUnit);
        string memory json = string.concat(
            '{"name": "PollinationX #',
            tokenId.toString(),
            '","image": "data:image/svg+xml;base64,',
            Base64.encode(bytes(_picture(capacity))),
            '","attributes": [{"display_type": "boost_percentage","trait_type": "Usage","value": ',
            _percentage(token).toString(),
            '},{"trait_type": "Capacity","value": "',
            capacity,
            '"}',
            _moreAttributes(token),
            "]}"
        );
        _texts[tokenId] = string.concat("data:application/json;base64,", Base64.encode(bytes(json)));
    }

    function _addPlan(uint256 price, uint256 sizeInGb, uint256 bandwidthLimit) internal {
        string memory name = _plans.length.toString();
        _plans.push(Plan(name, price, sizeInGb, sizeInGb << 30, "GB", bandwidthLimit, 1));
    }

    function _grant(Token storage token, Plan storage plan) private {
        token.size = plan.size;
        token.sizeInBytes = plan.sizeInBytes;
        token.storageUnit = plan.storageUnit;
        token.bandwidth += plan.bandwidthLimit;
        token.lastUpdateTimestamp = block.timestamp;
    }

    function _mayUse(uint256 tokenId) internal view returns (bool) {
        return _isAuthorized(ownerOf(tokenId), msg.sender, tokenId);
    }

    function _full(uint256 tokenId, uint256 newUsage) internal view returns (bool) {
        Token storage token = _tokens[tokenId];
        return token.usage + newUsage > token.sizeInBytes;
    }

    /// Used percent, rounded up.
    function _percentage(Token storage token) internal view returns (uint256) {
        uint256 size = token.sizeInBytes;
        return size == 0 ? 0 : 100 - (size - token.usage) * 100 / size;
    }

    /// Of a size that makes the text cost what that of the deployed contracts costs.
    function _picture(string memory capacity) private pure returns (string memory) {
        string memory cell = '<path d="M60 10 103 35V85L60 110 17 85V35Z" fill="#fc0" stroke="#630" stroke-width="4"/>';
        string memory row = string.concat(cell, cell, cell, cell, cell);
        return string.concat(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 140">',
            row, row, row, row, row,
            '<text x="60" y="130" text-anchor="middle">',
            capacity,
            "</text></svg>"
        );
    }

    function _moreAttributes(Token storage token) internal view virtual returns (string memory);
}
