// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IPxSync} from "./interfaces/IPxSync.sol";

/// @title What a sync costs, how often it is due, and who may answer it
/// @notice All of it is the contract owner's to set, within bounds.
abstract contract SyncSettings is Ownable2Step, IPxSync {
    /// @notice The longest `syncWindow` and `minSyncInterval`.
    uint256 public constant MAX_PERIOD = 3650 days;

    /// @inheritdoc IPxSync
    uint256 public syncWindow = 30 days;
    /// @inheritdoc IPxSync
    uint256 public minSyncInterval;
    /// @inheritdoc IPxSync
    uint256 public syncFee;
    /// @notice The one caller of `onReport`.
    address public forwarder;
    /// @notice The one workflow whose reports are taken; zero: any.
    bytes32 public workflowId;
    /// @notice The one owner of workflows whose reports are taken; zero: any.
    address public workflowOwner;

    event SyncWindowSet(uint256 period);
    event MinSyncIntervalSet(uint256 period);
    event SyncFeeSet(uint256 fee);
    event ForwarderSet(address indexed forwarder);
    event WorkflowSet(bytes32 indexed workflowId, address indexed workflowOwner);

    constructor(address forwarder_) {
        _setForwarder(forwarder_);
    }

    function setSyncWindow(uint256 period) external onlyOwner {
        require(period != 0 && period <= MAX_PERIOD, "period out of range");
        syncWindow = period;
        emit SyncWindowSet(period);
    }

    function setMinSyncInterval(uint256 period) external onlyOwner {
        require(period <= MAX_PERIOD, "period out of range");
        minSyncInterval = period;
        emit MinSyncIntervalSet(period);
    }

    function setSyncFee(uint256 fee) external onlyOwner {
        syncFee = fee;
        emit SyncFeeSet(fee);
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

    function _setForwarder(address forwarder_) private {
        forwarder = forwarder_;
        emit ForwarderSet(forwarder_);
    }
}
