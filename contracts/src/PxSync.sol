// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC721, ERC721Enumerable} from "@openzeppelin/contracts/token/ERC721/extensions/ERC721Enumerable.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {Packages} from "./Packages.sol";
import {SyncSettings} from "./SyncSettings.sol";
import {TokenMetadata} from "./TokenMetadata.sol";
import {IPxSync} from "./interfaces/IPxSync.sol";
import {IReceiver} from "./interfaces/IReceiver.sol";

/// @title PollinationX storage tokens whose usage an oracle writes
/// @notice Each token grants its owner a number of bytes. What is stored is told by usage metadata
/// that lies under the token's BTNS key; `sync` has an oracle read it, and the answer comes back
/// through `onReport`. Nobody else writes usage or `lastUpdateTimestamp`, the contract's owner
/// included. A token that was not synced within `syncWindow` may not upload until it is.
contract PxSync is ERC721Enumerable, Packages, SyncSettings, Pausable, ReentrancyGuard, IReceiver {
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

    /// @notice Seconds after which an open request may be renewed.
    uint256 public constant REQUEST_TIMEOUT = 5 minutes;
    /// The greatest integer of the usage metadata.
    uint256 private constant MAX_INTEGER = 2 ** 53 - 1;
    /// A report is seven words.
    uint256 private constant REPORT_LENGTH = 7 * 32;
    /// `MetadataUpdate` and `BatchMetadataUpdate` (ERC-4906) have no function to take an id from.
    bytes4 private constant ERC4906_ID = 0x49064906;

    // Codes of `SyncFailed`. 1 to 127 are the oracle's, out of the report:
    //   1 the name leads nowhere               4 the document is of another chain, contract, token or epoch
    //   2 the document cannot be fetched       5 the key is not an ed25519 name
    //   3 the document is not valid            6 the oracle itself failed
    /// @notice The report holds a number that no valid document or oracle can hold.
    uint8 public constant MALFORMED = 128;
    /// @notice The report is about another epoch of the token.
    uint8 public constant OTHER_EPOCH = 129;
    /// @notice The sequence is below the stored one.
    uint8 public constant OLD_SEQUENCE = 130;
    /// @notice The sequence is the stored one, and the root is not.
    uint8 public constant OTHER_ROOT = 131;

    mapping(uint256 => Token) private _tokens;
    uint256 private _lastRequest;

    /// @notice ERC-4906: what `tokenURI` answers has changed.
    event MetadataUpdate(uint256 _tokenId);
    /// @notice ERC-4906, never emitted here.
    event BatchMetadataUpdate(uint256 _fromTokenId, uint256 _toTokenId);
    event PackageUpgraded(uint256 indexed tokenId, uint256 packageId);

    /// @param owner_ Sets packages, prices, settings and the forwarder; takes the income.
    /// @param forwarder_ Delivers the oracle's reports; zero: nobody does, until it is set.
    constructor(address owner_, address forwarder_)
        ERC721("PollinationX Storage", "PXS")
        Ownable(owner_)
        SyncSettings(forwarder_)
    {}

    // ------------------------------------------------------------------------------- tokens

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

    // --------------------------------------------------------------------------------- sync

    /// @inheritdoc IPxSync
    /// @dev A request that the oracle left unanswered may be renewed after `REQUEST_TIMEOUT`, which
    /// voids the unanswered one; `minSyncInterval` then does not count, nor when the token is overdue.
    function sync(uint256 tokenId) external payable nonReentrant returns (bytes32 requestId) {
        _requireOwned(tokenId);
        Token storage token = _tokens[tokenId];
        require(bytes(token.btnsKey).length != 0, "not registered");
        uint256 fee = syncFee;
        require(msg.value >= fee, "fee too low");
        if (token.requestId != 0) {
            require(block.timestamp >= token.requestedAt + REQUEST_TIMEOUT, "sync already requested");
        } else if (token.requestedAt != 0 && !_overdue(token)) {
            require(block.timestamp >= token.requestedAt + minSyncInterval, "synced too recently");
        }

        requestId = keccak256(abi.encode(block.chainid, address(this), tokenId, token.epoch, ++_lastRequest));
        token.requestId = requestId;
        token.requestedAt = uint64(block.timestamp);
        emit SyncRequested(tokenId, requestId, token.epoch, token.btnsKey);

        if (msg.value > fee) {
            _send(msg.sender, msg.value - fee);
        }
    }

    /// @inheritdoc IReceiver
    /// @dev report = abi.encode(bytes32 requestId, uint256 tokenId, uint64 epoch, uint256 usage,
    /// uint64 sequence, bytes32 root, uint8 error). Only a wrong caller reverts. A report of no open
    /// request does nothing, so replays and late answers are harmless. Every other report closes its
    /// request, with `Synced` or `SyncFailed`.
    function onReport(bytes calldata metadata, bytes calldata report) external {
        _checkReporter(metadata);
        if (report.length != REPORT_LENGTH) return;
        // Decoded as whole words: a number out of its range must not revert, it must be refused.
        (bytes32 requestId, uint256 tokenId, uint256 epoch_, uint256 usage, uint256 sequence, bytes32 root, uint256 err)
        = abi.decode(report, (bytes32, uint256, uint256, uint256, uint256, bytes32, uint256));

        Token storage token = _tokens[tokenId];
        if (requestId == 0 || token.requestId != requestId) return;
        delete token.requestId;

        uint8 code = _refusal(token, epoch_, usage, sequence, root, err);
        if (code != 0) {
            emit SyncFailed(tokenId, requestId, code);
            return;
        }
        token.synced = true;
        token.usage = uint64(usage);
        token.sequence = uint64(sequence);
        token.root = root;
        token.lastUpdateTimestamp = uint64(block.timestamp);
        emit Synced(tokenId, usage, uint64(sequence), root);
        emit MetadataUpdate(tokenId);
    }

    /// @return Why a report is refused, as a code of `SyncFailed`; 0 when it is taken.
    function _refusal(Token storage token, uint256 epoch_, uint256 usage, uint256 sequence, bytes32 root, uint256 err)
        private
        view
        returns (uint8)
    {
        if (err >= MALFORMED) return MALFORMED;
        if (err != 0) return uint8(err);
        if (epoch_ != token.epoch) return OTHER_EPOCH;
        if (usage > MAX_INTEGER || sequence > MAX_INTEGER) return MALFORMED;
        if (token.synced && sequence < token.sequence) return OLD_SEQUENCE;
        if (token.synced && sequence == token.sequence && root != token.root) return OTHER_ROOT;
        return 0;
    }

    function _overdue(Token storage token) private view returns (bool) {
        return block.timestamp > token.lastUpdateTimestamp + syncWindow;
    }

    // -------------------------------------------------------------------------------- reads

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

    /// @inheritdoc IPxSync
    function tokenInfo(uint256 tokenId) public view returns (TokenInfo memory info) {
        info.owner = _requireOwned(tokenId);
        Token storage token = _tokens[tokenId];
        info.tokenId = tokenId;
        info.packageId = token.packageId;
        info.packageName = _packageName(token.packageId);
        info.sizeInBytes = _sizeInBytes(token.packageId);
        info.usage = token.usage;
        info.buyTimestamp = token.buyTimestamp;
        info.lastUpdateTimestamp = token.lastUpdateTimestamp;
        info.syncWindow = syncWindow;
        info.epoch = token.epoch;
        info.btnsKey = token.btnsKey;
        info.synced = token.synced;
        info.sequence = token.sequence;
        info.root = token.root;
        info.requestId = token.requestId;
        info.requestedAt = token.requestedAt;
    }

    /// @inheritdoc IPxSync
    function tokensOf(address owner_, uint256 from, uint256 limit) external view returns (TokenInfo[] memory tokens) {
        uint256 balance = balanceOf(owner_);
        uint256 count = from >= balance ? 0 : balance - from;
        tokens = new TokenInfo[](count < limit ? count : limit);
        for (uint256 i = 0; i < tokens.length; ++i) {
            tokens[i] = tokenInfo(tokenOfOwnerByIndex(owner_, from + i));
        }
    }

    /// @notice A token as the older contracts tell it. `bandwidth` is the largest uint256: uploads
    /// are not counted here.
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
        _requireOwned(tokenId);
        Token storage token = _tokens[tokenId];
        name = _packageName(token.packageId);
        usage = token.usage;
        usagePercentage = _usedPercent(token);
        (size, storageUnit) = _sizeAndUnit(token.packageId);
        sizeInBytes = _sizeInBytes(token.packageId);
        buyTimestamp = token.buyTimestamp;
        lastUpdateTimestamp = token.lastUpdateTimestamp;
        bandwidth = type(uint256).max;
    }

    /// @notice Whether `newUsage` more bytes fit, and if not, whether for want of size or of a sync.
    function canUpload(uint256 tokenId, uint256 newUsage)
        external
        view
        returns (bool can, bool sizeOrBandwidthExceeded, bool timestampLock)
    {
        _requireOwned(tokenId);
        Token storage token = _tokens[tokenId];
        uint256 size = _sizeInBytes(token.packageId);
        sizeOrBandwidthExceeded = token.usage > size || newUsage > size - token.usage;
        timestampLock = _overdue(token);
        can = !sizeOrBandwidthExceeded && !timestampLock;
    }

    /// @notice Stored bytes as the last sync found them.
    function getStorageUsageInBytes(uint256 tokenId) external view returns (uint256) {
        _requireOwned(tokenId);
        return _tokens[tokenId].usage;
    }

    /// @notice The older contracts' way to write usage; here only the oracle writes it.
    function updateStorageUsage(uint256, uint256, uint256) external pure {
        revert("use sync");
    }

    /// @inheritdoc ERC721
    function tokenURI(uint256 tokenId) public view override returns (string memory) {
        _requireOwned(tokenId);
        Token storage token = _tokens[tokenId];
        return TokenMetadata.uri(
            tokenId, _packageName(token.packageId), _usedPercent(token), token.lastUpdateTimestamp
        );
    }

    /// @inheritdoc ERC721Enumerable
    function supportsInterface(bytes4 interfaceId) public view override returns (bool) {
        return interfaceId == type(IPxSync).interfaceId || interfaceId == type(IReceiver).interfaceId
            || interfaceId == ERC4906_ID || super.supportsInterface(interfaceId);
    }

    function _usedPercent(Token storage token) private view returns (uint256) {
        return uint256(token.usage) * 100 / _sizeInBytes(token.packageId);
    }

    // ----------------------------------------------------------------------- contract owner

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

    function _send(address to, uint256 value) private {
        (bool sent,) = to.call{value: value}("");
        require(sent, "payment refused");
    }
}
