// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

/// @title An owner who can hand the contract over, in two steps, and cannot abandon it
/// @notice Without an owner nobody could replace a forwarder or an operator that has stopped.
abstract contract Owned is Ownable2Step {
    /// @notice Always refused.
    function renounceOwnership() public pure override {
        revert("ownership cannot be renounced");
    }
}
