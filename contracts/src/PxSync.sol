// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC721, ERC721Enumerable} from "@openzeppelin/contracts/token/ERC721/extensions/ERC721Enumerable.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {NameKey} from "./NameKey.sol";
import {SyncSettings} from "./SyncSettings.sol";
import {TokenMetadata} from "./TokenMetadata.sol";
import {Tokens} from "./Tokens.sol";
import {IPxSync} from "./interfaces/IPxSync.sol";
import {IReceiver} from "./interfaces/IReceiver.sol";

/// @title PollinationX storage tokens whose usage an oracle writes
/// @notice Each token grants its owner a number of bytes. What is stored is told by usage metadata
/// that lies under the token's BTNS key; `sync` has an oracle read it, and the answer comes back
/// through `onReport`. Nobody else writes usage or `lastUpdateTimestamp`, the contract's owner
/// included. A token that was not synced within `syncWindow` may not upload until it is.
contract PxSync is Tokens, IReceiver {
    /// @notice Seconds after which an open request may be renewed.
    uint256 public constant REQUEST_TIMEOUT = 5 minutes;
    /// @notice Seconds after the block in which an oracle found nothing, for which that counts.
    uint256 public constant FAILURE_AGE = 5 minutes;
    /// How far an oracle's clock may be ahead of the block's time.
    uint256 private constant CLOCK_SKEW = 1 minutes;
    /// The greatest integer of the usage metadata.
    uint256 private constant MAX_INTEGER = 2 ** 53 - 1;
    /// Enough for a forwarder to take coins, and for nothing else.
    uint256 private constant FORWARDER_GAS = 5_000;
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

    /// @notice What was paid for an answered request went to the forwarder, for its operators.
    event FeePaid(uint256 indexed tokenId, address indexed forwarder, uint256 fee);

    /// @param owner_ Sets packages, prices, settings and the forwarder; takes the income.
    /// @param forwarder_ Delivers the oracle's reports; zero: nobody does, until it is set.
    constructor(address owner_, address forwarder_) Ownable(owner_) SyncSettings(forwarder_) {}

    // --------------------------------------------------------------------------------- sync

    /// @inheritdoc IPxSync
    /// @dev A request that the oracle left unanswered may be renewed after `REQUEST_TIMEOUT`, which
    /// voids the unanswered one and costs nothing more; `minSyncInterval` then does not count, nor when
    /// the token is overdue. Who is neither the token's owner nor approved waits `STRANGER_INTERVAL`
    /// after the last request and the last sync.
    function sync(uint256 tokenId) external payable nonReentrant returns (bytes32) {
        address owner_ = _requireOwned(tokenId);
        Token storage token = _tokens[tokenId];
        bytes32 nameKey = token.nameKey;
        require(nameKey != 0, "not registered");
        if (!_isAuthorized(owner_, msg.sender, tokenId)) {
            uint256 last = Math.max(token.requestedAt, token.lastUpdateTimestamp);
            require(block.timestamp >= last + STRANGER_INTERVAL, "only the owner may sync so soon");
        }
        uint256 fee = 0;
        if (token.open) {
            require(block.timestamp >= uint256(token.requestedAt) + REQUEST_TIMEOUT, "sync already requested");
        } else {
            fee = syncFee();
            require(msg.value >= fee, "fee too low");
            if (token.requestedAt != 0 && !_overdue(token)) {
                require(block.timestamp >= token.requestedAt + minSyncInterval, "synced too recently");
            }
            if (fee != 0) {
                token.fee = uint96(fee);
                heldFees += fee;
            }
            token.open = true;
        }
        ++token.requests;
        token.requestedAt = uint40(block.timestamp);
        bytes32 requestId = _requestId(tokenId, token);
        emit SyncRequested(tokenId, requestId, token.epoch, NameKey.format(nameKey));

        if (msg.value > fee) {
            _send(msg.sender, msg.value - fee);
        }
        return requestId;
    }

    /// @inheritdoc IReceiver
    /// @dev report = abi.encode(bytes32 requestId, uint256 tokenId, uint64 epoch, uint256 usage,
    /// uint64 sequence, bytes32 root, uint8 error). Only a wrong caller reverts. A report of no open
    /// request does nothing, so replays and late answers are harmless. Where `error` is not 0, `usage` is the
    /// number and `sequence` the time of the block that the oracle saw: what failed a while ago may have been
    /// mended since, so such a report does nothing after `FAILURE_AGE`. Every other report closes its request,
    /// with `Synced` or `SyncFailed`.
    function onReport(bytes calldata metadata, bytes calldata report) external {
        _checkReporter(metadata);
        if (report.length != REPORT_LENGTH) return;
        // Decoded as whole words: a number out of its range must not revert, it must be refused.
        (bytes32 requestId, uint256 tokenId, uint256 epoch_, uint256 usage, uint256 sequence, bytes32 root, uint256 err)
        = abi.decode(report, (bytes32, uint256, uint256, uint256, uint256, bytes32, uint256));

        Token storage token = _tokens[tokenId];
        if (!token.open || requestId != _requestId(tokenId, token)) return;
        if (err != 0 && err < MALFORMED && _isOld(sequence)) return;
        token.open = false;
        uint256 fee = _releaseFee(token);

        uint8 code = _refusal(token, epoch_, usage, sequence, root, err);
        if (code != 0) {
            emit SyncFailed(tokenId, requestId, code);
        } else {
            token.synced = true;
            token.usage = uint56(usage);
            token.sequence = uint56(sequence);
            token.root = root;
            token.lastUpdateTimestamp = uint40(block.timestamp);
            emit Synced(tokenId, usage, uint64(sequence), root);
            emit MetadataUpdate(tokenId);
        }
        if (fee != 0) {
            // A forwarder that takes no coins, as Chainlink's, leaves the fee to the income.
            (bool paid,) = msg.sender.call{value: fee, gas: FORWARDER_GAS}("");
            if (paid) emit FeePaid(tokenId, msg.sender, fee);
        }
    }

    /// The token's last request, open or closed.
    function _requestId(uint256 tokenId, Token storage token) private view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), tokenId, token.epoch, token.requests));
    }

    /// Whether what was seen at this time counts no more, or cannot have been seen yet.
    function _isOld(uint256 seenAt) private view returns (bool) {
        return seenAt > block.timestamp + CLOCK_SKEW || block.timestamp > seenAt + FAILURE_AGE;
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

    // -------------------------------------------------------------------------------- reads

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
        info.syncWindow = syncWindow();
        info.epoch = token.epoch;
        info.btnsKey = NameKey.format(token.nameKey);
        info.synced = token.synced;
        info.sequence = token.sequence;
        info.root = token.root;
        if (token.open) info.requestId = _requestId(tokenId, token);
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
}
