// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ERC721, ERC721Enumerable} from "@openzeppelin/contracts/token/ERC721/extensions/ERC721Enumerable.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {Packages} from "./Packages.sol";
import {SyncSettings} from "./SyncSettings.sol";
import {IPxSync} from "./interfaces/IPxSync.sol";

/// @title Storage tokens: minting, keys, and the epochs that transfers and registrations begin
/// @notice What a token says about its stored bytes is written by `PxSync` alone; here it is only
/// made, and forgotten when an epoch ends.
abstract contract Tokens is ERC721Enumerable, Packages, SyncSettings, Pausable, ReentrancyGuard {
    struct Token {
        uint64 packageId;
        uint64 epoch;
        uint64 buyTimestamp;
        uint64 lastUpdateTimestamp;
        uint64 usage;
        uint64 sequence;
        uint64 requestedAt;
        /// Whether sequence and root mean something: a sync has landed in this epoch.
        bool synced;
        bytes32 root;
        bytes32 requestId;
        string btnsKey;
    }

    mapping(uint256 => Token) internal _tokens;

    /// @notice ERC-4906: what `tokenURI` answers has changed.
    event MetadataUpdate(uint256 _tokenId);
    /// @notice ERC-4906, never emitted here.
    event BatchMetadataUpdate(uint256 _fromTokenId, uint256 _toTokenId);
    event PackageUpgraded(uint256 indexed tokenId, uint256 packageId);

    constructor() ERC721("PollinationX Storage", "PXS") {}

    /// @inheritdoc IPxSync
    function mint(uint256 packageId, string calldata key) external payable {
        _checkKey(key);
        _mintPackage(packageId, key);
    }

    /// @inheritdoc IPxSync
    function mint(uint256 packageId) external payable {
        _mintPackage(packageId, "");
    }

    /// @inheritdoc IPxSync
    function register(uint256 tokenId, string calldata key) external {
        require(_requireOwned(tokenId) == msg.sender, "!owner");
        _checkKey(key);
        Token storage token = _tokens[tokenId];
        _beginEpoch(token);
        token.btnsKey = key;
        emit Registered(tokenId, token.epoch, key);
    }

    /// @notice Moves a token to a larger package; the value is that package's price. The token's
    /// owner, or who is approved for it. Usage, deadline and epoch stay.
    function upgradeTokenPackage(uint256 tokenId, uint256 packageId) external payable nonReentrant {
        _checkAuthorized(_requireOwned(tokenId), msg.sender, tokenId);
        Token storage token = _tokens[tokenId];
        require(_sizeInBytes(packageId) > _sizeInBytes(token.packageId), "package not larger");
        _buy(msg.sender, packageId);
        token.packageId = uint64(packageId);
        emit PackageUpgraded(tokenId, packageId);
        emit MetadataUpdate(tokenId);
    }

    /// @inheritdoc IPxSync
    function btnsKey(uint256 tokenId) external view returns (string memory) {
        _requireOwned(tokenId);
        return _tokens[tokenId].btnsKey;
    }

    /// @inheritdoc IPxSync
    function epoch(uint256 tokenId) external view returns (uint64) {
        _requireOwned(tokenId);
        return _tokens[tokenId].epoch;
    }

    /// @notice Stops minting, and nothing else. The contract's owner alone.
    function pause() external onlyOwner {
        _pause();
    }

    /// @notice Lets minting go on. The contract's owner alone.
    function unpause() external onlyOwner {
        _unpause();
    }

    /// @notice Sends the income to the contract's owner, who alone may call.
    function withdraw() external onlyOwner nonReentrant {
        _send(msg.sender, address(this).balance);
    }

    function _mintPackage(uint256 packageId, string memory key) private nonReentrant whenNotPaused {
        _buy(msg.sender, packageId);
        uint256 tokenId = totalSupply() + 1;
        Token storage token = _tokens[tokenId];
        token.packageId = uint64(packageId);
        token.epoch = 1;
        token.buyTimestamp = uint64(block.timestamp);
        token.lastUpdateTimestamp = uint64(block.timestamp);
        if (bytes(key).length != 0) {
            token.btnsKey = key;
            emit Registered(tokenId, 1, key);
        }
        _safeMint(msg.sender, tokenId);
    }

    /// Every transfer voids what the seller said about the token: key, documents, requests, and the
    /// time until the next sync.
    function _update(address to, uint256 tokenId, address auth) internal override returns (address from) {
        from = super._update(to, tokenId, auth);
        if (from != address(0)) {
            Token storage token = _tokens[tokenId];
            _beginEpoch(token);
            delete token.requestedAt;
            delete token.btnsKey;
        }
    }

    function _beginEpoch(Token storage token) private {
        ++token.epoch;
        delete token.synced;
        delete token.sequence;
        delete token.root;
        delete token.requestId;
    }

    /// A key is the base36 name of an ed25519 key: `k51` and 59 of `0-9a-z`.
    function _checkKey(string calldata key) private pure {
        bytes calldata text = bytes(key);
        bool good = text.length == 62 && text[0] == "k" && text[1] == "5" && text[2] == "1";
        for (uint256 i = 3; good && i < 62; ++i) {
            bytes1 c = text[i];
            good = (c >= "0" && c <= "9") || (c >= "a" && c <= "z");
        }
        require(good, "not a btns key");
    }

    function _overdue(Token storage token) internal view returns (bool) {
        return block.timestamp > token.lastUpdateTimestamp + syncWindow;
    }

    function _send(address to, uint256 value) internal {
        (bool sent,) = to.call{value: value}("");
        require(sent, "payment refused");
    }
}
