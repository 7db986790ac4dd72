// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ERC721, ERC721Enumerable} from "@openzeppelin/contracts/token/ERC721/extensions/ERC721Enumerable.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {NameKey} from "./NameKey.sol";
import {Packages} from "./Packages.sol";
import {SyncSettings} from "./SyncSettings.sol";
import {IPxSync} from "./interfaces/IPxSync.sol";

/// @title Storage tokens: minting, keys, and the epochs that transfers and registrations begin
/// @notice What a token says about its stored bytes is written by `PxSync` alone; here it is only
/// made, and forgotten when an epoch ends.
abstract contract Tokens is ERC721Enumerable, Packages, SyncSettings, Pausable, ReentrancyGuard {
    struct Token {
        // One slot, which a sync request writes.
        uint32 packageId;
        uint64 epoch;
        uint40 buyTimestamp;
        uint40 lastUpdateTimestamp;
        uint40 requestedAt;
        /// How many requests were made of this token: the number of the last one.
        uint32 requests;
        /// Whether that one is open.
        bool open;
        // One slot, which an answer writes.
        uint56 usage;
        uint56 sequence;
        /// Whether sequence and root mean something: a sync has landed in this epoch.
        bool synced;
        /// What was paid for the open request, in wei: it is for the operators who answer.
        uint96 fee;
        bytes32 root;
        /// The ed25519 key behind the BTNS key; zero when the token is not registered.
        bytes32 nameKey;
    }

    mapping(uint256 => Token) internal _tokens;
    /// @notice Fees of open requests, in wei: not income yet.
    uint256 public heldFees;

    /// @notice ERC-4906: what `tokenURI` answers has changed.
    event MetadataUpdate(uint256 _tokenId);
    /// @notice ERC-4906, never emitted here.
    event BatchMetadataUpdate(uint256 _fromTokenId, uint256 _toTokenId);
    event PackageUpgraded(uint256 indexed tokenId, uint256 packageId);

    constructor() ERC721("PollinationX Storage", "PXS") {}

    /// @inheritdoc IPxSync
    function mint(uint256 packageId, string calldata key) external payable {
        _mintPackage(packageId, key, _parseKey(key));
    }

    /// @inheritdoc IPxSync
    function mint(uint256 packageId) external payable {
        _mintPackage(packageId, "", 0);
    }

    /// @inheritdoc IPxSync
    function register(uint256 tokenId, string calldata key) external {
        require(_requireOwned(tokenId) == msg.sender, "!owner");
        Token storage token = _tokens[tokenId];
        _beginEpoch(token);
        token.nameKey = _parseKey(key);
        emit Registered(tokenId, token.epoch, key);
    }

    /// @notice Moves a token to a larger package; the value is that package's price. The token's
    /// owner, or who is approved for it. Usage, deadline and epoch stay.
    function upgradeTokenPackage(uint256 tokenId, uint256 packageId) external payable nonReentrant {
        _checkAuthorized(_requireOwned(tokenId), msg.sender, tokenId);
        Token storage token = _tokens[tokenId];
        require(_sizeInBytes(packageId) > _sizeInBytes(token.packageId), "package not larger");
        _buy(msg.sender, packageId);
        token.packageId = uint32(packageId);
        emit PackageUpgraded(tokenId, packageId);
        emit MetadataUpdate(tokenId);
    }

    /// @inheritdoc IPxSync
    function btnsKey(uint256 tokenId) external view returns (string memory) {
        _requireOwned(tokenId);
        return NameKey.format(_tokens[tokenId].nameKey);
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

    /// @notice Sends the income to the contract's owner, who alone may call. Fees of open requests are
    /// not income.
    function withdraw() external onlyOwner nonReentrant {
        _send(msg.sender, address(this).balance - heldFees);
    }

    function _mintPackage(uint256 packageId, string memory key, bytes32 nameKey) private nonReentrant whenNotPaused {
        _buy(msg.sender, packageId);
        uint256 tokenId = totalSupply() + 1;
        Token storage token = _tokens[tokenId];
        token.packageId = uint32(packageId);
        token.epoch = 1;
        token.buyTimestamp = uint40(block.timestamp);
        token.lastUpdateTimestamp = uint40(block.timestamp);
        if (nameKey != 0) {
            token.nameKey = nameKey;
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
            delete token.nameKey;
        }
    }

    function _beginEpoch(Token storage token) private {
        ++token.epoch;
        delete token.synced;
        delete token.sequence;
        delete token.root;
        delete token.open;
        _releaseFee(token);
    }

    /// Of the open request: from now on whoever has the coins owns them.
    /// @return fee What was paid for it, in wei.
    function _releaseFee(Token storage token) internal returns (uint256 fee) {
        fee = token.fee;
        if (fee != 0) {
            delete token.fee;
            heldFees -= fee;
        }
    }

    function _parseKey(string calldata key) private pure returns (bytes32 nameKey) {
        nameKey = NameKey.parse(bytes(key));
        require(nameKey != 0, "not a btns key");
    }

    function _overdue(Token storage token) internal view returns (bool) {
        return block.timestamp > token.lastUpdateTimestamp + syncWindow();
    }

    function _send(address to, uint256 value) internal {
        (bool sent,) = to.call{value: value}("");
        require(sent, "payment refused");
    }
}
