// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title What a report forwarder calls
/// @notice The receiver's side of Chainlink's KeystoneForwarder: it hands on a report only to a
/// contract that answers ERC-165 for this interface (0x805f2132).
interface IReceiver {
    /// @param metadata Who made the report: workflow id (32 bytes), workflow name (10), workflow
    /// owner (20), report id (2), packed.
    /// @param report What was agreed on.
    function onReport(bytes calldata metadata, bytes calldata report) external;
}
