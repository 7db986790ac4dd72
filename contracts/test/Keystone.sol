// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ERC165Checker} from "@openzeppelin/contracts/utils/introspection/ERC165Checker.sol";
import {IReceiver} from "../src/interfaces/IReceiver.sol";

/// @title Calls a receiver as Chainlink's KeystoneForwarder does, for the tests
/// @notice A raw report is 109 bytes of header and what the workflow reported. Of the header, workflow
/// id, name, owner and report id (bytes 45 to 109) go to the receiver as metadata. A receiver that
/// reverts does not undo the delivery; a report that was delivered is not delivered again. The network's
/// signatures, which Chainlink's forwarder checks, are taken as they are.
contract Keystone {
    uint256 private constant METADATA = 45;
    uint256 private constant BODY = 109;

    /// @notice Whether a report was delivered and taken.
    mapping(bytes32 transmissionId => bool) public delivered;

    /// @param gasUsed What the call of the receiver took, the call itself included.
    event ReportProcessed(
        address indexed receiver, bytes32 indexed executionId, bytes2 indexed reportId, bool result, uint256 gasUsed
    );

    function report(address receiver, bytes calldata rawReport, bytes calldata, bytes[] calldata signatures)
        external
    {
        require(rawReport.length >= BODY, "InvalidReport");
        require(signatures.length != 0, "InvalidSignatureCount");
        bytes32 executionId = bytes32(rawReport[1:33]);
        bytes2 reportId = bytes2(rawReport[107:109]);
        bytes32 transmissionId = keccak256(bytes.concat(bytes20(receiver), executionId, reportId));
        require(!delivered[transmissionId], "AlreadyAttempted");

        bool result;
        uint256 gasUsed;
        if (ERC165Checker.supportsInterface(receiver, type(IReceiver).interfaceId)) {
            bytes memory call = abi.encodeCall(IReceiver.onReport, (rawReport[METADATA:BODY], rawReport[BODY:]));
            uint256 before = gasleft();
            (result,) = receiver.call(call);
            gasUsed = before - gasleft();
        }
        delivered[transmissionId] = result;
        emit ReportProcessed(receiver, executionId, reportId, result, gasUsed);
    }
}
