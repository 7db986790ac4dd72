// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title Many calls as one
/// @notice For the tests: answers `aggregate3` as the contract that most chains have at
/// 0xcA11bde05977b3631167028862bE2a173976CA11 does.
contract Multicall {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory results) {
        results = new Result[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            (results[i].success, results[i].returnData) = calls[i].target.call(calls[i].callData);
            require(results[i].success || calls[i].allowFailure, "Multicall3: call failed");
        }
    }
}
