// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Owned} from "./Owned.sol";
import {IPxSync} from "./interfaces/IPxSync.sol";

/// @title What a sync costs, how often it is due, and who may answer it
/// @notice All of it is the contract owner's to set, within bounds. What a token's owner counts on,
/// fee and window, changes only `SETTING_DELAY` after the change was announced.
abstract contract SyncSettings is Owned, IPxSync {
    /// A setting, and the one that takes its place at `since`; `since` is zero if none is announced.
    struct Setting {
        uint96 value;
        uint96 next;
        uint64 since;
    }

    /// @notice Seconds between the announcement of a fee or a window and its first second.
    uint256 public constant SETTING_DELAY = 7 days;
    /// @notice The shortest and the longest `syncWindow`.
    uint256 public constant MIN_SYNC_WINDOW = 7 days;
    uint256 public constant MAX_SYNC_WINDOW = 3650 days;
    /// @notice The longest `minSyncInterval`: below the shortest window, so that every token can be
    /// synced before it is overdue.
    uint256 public constant MAX_SYNC_INTERVAL = 1 days;
    /// @notice The highest `syncFee`; the lowest is zero. It is meant for coins of a dollar and less,
    /// where the gas of one delivery can cost a hundredth of a coin.
    uint256 public constant MAX_SYNC_FEE = 1 ether;
    /// @notice Seconds between two requests of one token by those who are neither its owner nor
    /// approved. Without it anybody could spend the operators' gas on a token of somebody else.
    uint256 public constant STRANGER_INTERVAL = 1 days;

    /// @inheritdoc IPxSync
    uint256 public minSyncInterval;
    /// @notice The one caller of `onReport`.
    address public forwarder;
    /// @notice The one workflow whose reports are taken; zero: any.
    bytes32 public workflowId;
    /// @notice The one owner of workflows whose reports are taken; zero: any.
    address public workflowOwner;

    Setting private _window = Setting({value: 30 days, next: 0, since: 0});
    Setting private _fee;

    /// @notice `syncWindow` is `period` from the time `since` on.
    event SyncWindowAnnounced(uint256 period, uint256 since);
    /// @notice `syncFee` is `fee` from the time `since` on.
    event SyncFeeAnnounced(uint256 fee, uint256 since);
    event MinSyncIntervalSet(uint256 period);
    event ForwarderSet(address indexed forwarder);
    event WorkflowSet(bytes32 indexed workflowId, address indexed workflowOwner);

    constructor(address forwarder_) {
        _setForwarder(forwarder_);
    }

    /// @inheritdoc IPxSync
    function syncWindow() public view returns (uint256) {
        return _now(_window);
    }

    /// @inheritdoc IPxSync
    function syncFee() public view returns (uint256) {
        return _now(_fee);
    }

    /// @notice Announces a window. One that was announced and is not in force is withdrawn.
    function setSyncWindow(uint256 period) external onlyOwner {
        require(period >= MIN_SYNC_WINDOW && period <= MAX_SYNC_WINDOW, "period out of range");
        emit SyncWindowAnnounced(period, _announce(_window, period));
    }

    /// @notice Announces a fee, in wei. One that was announced and is not in force is withdrawn.
    function setSyncFee(uint256 fee) external onlyOwner {
        require(fee <= MAX_SYNC_FEE, "fee out of range");
        emit SyncFeeAnnounced(fee, _announce(_fee, fee));
    }

    function setMinSyncInterval(uint256 period) external onlyOwner {
        require(period <= MAX_SYNC_INTERVAL, "period out of range");
        minSyncInterval = period;
        emit MinSyncIntervalSet(period);
    }

    function setForwarder(address forwarder_) external onlyOwner {
        _setForwarder(forwarder_);
    }

    /// @notice Takes reports only of this workflow, or of this owner's workflows; zero: any.
    function setWorkflow(bytes32 id, address owner_) external onlyOwner {
        workflowId = id;
        workflowOwner = owner_;
        emit WorkflowSet(id, owner_);
    }

    /// Reverts unless the forwarder calls, and hands on a report of the workflow that is set.
    /// @param metadata workflow id (32 bytes), workflow name (10), workflow owner (20), …
    function _checkReporter(bytes calldata metadata) internal view {
        require(msg.sender == forwarder, "!forwarder");
        if (workflowId == 0 && workflowOwner == address(0)) return;
        require(metadata.length >= 62, "!workflow");
        require(workflowId == 0 || workflowId == bytes32(metadata[:32]), "!workflow");
        require(workflowOwner == address(0) || workflowOwner == address(bytes20(metadata[42:62])), "!workflow");
    }

    function _now(Setting storage setting) private view returns (uint256) {
        return setting.since != 0 && block.timestamp >= setting.since ? setting.next : setting.value;
    }

    /// @return since When `next` takes the place of what is in force now.
    function _announce(Setting storage setting, uint256 next) private returns (uint256 since) {
        setting.value = uint96(_now(setting));
        setting.next = uint96(next);
        since = block.timestamp + SETTING_DELAY;
        setting.since = uint64(since);
    }

    function _setForwarder(address forwarder_) private {
        forwarder = forwarder_;
        emit ForwarderSet(forwarder_);
    }
}
