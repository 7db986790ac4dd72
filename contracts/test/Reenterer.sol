// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {IERC721Receiver} from "@openzeppelin/contracts/token/ERC721/IERC721Receiver.sol";

/// @title A wallet that calls back while it is being paid, or being given a token
/// @notice For the tests: `attempt` sends a call to the target; whenever the target then calls this
/// contract, it sends the armed call once and notes how that ended.
contract Reenterer is IERC721Receiver {
    address private _target;
    bytes private _armed;
    uint256 private _value;
    bool private _refuses;

    /// @notice How often the armed call was sent.
    uint256 public attempts;
    /// @notice Whether the last armed call went through.
    bool public succeeded;

    constructor(address target) payable {
        _target = target;
    }

    function arm(bytes calldata data, uint256 value) external {
        _armed = data;
        _value = value;
        attempts = 0;
        succeeded = false;
    }

    /// @notice From now on takes payments, or refuses them.
    function refuse(bool refuses) external {
        _refuses = refuses;
    }

    function attempt(bytes calldata data, uint256 value) external payable {
        (bool ok, bytes memory answer) = _target.call{value: value}(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
    }

    receive() external payable {
        require(!_refuses, "no, thank you");
        _reenter();
    }

    function onERC721Received(address, address, uint256, bytes calldata) external returns (bytes4) {
        _reenter();
        return IERC721Receiver.onERC721Received.selector;
    }

    function _reenter() private {
        if (_armed.length == 0 || attempts != 0) return;
        ++attempts;
        (succeeded,) = _target.call{value: _value}(_armed);
    }
}
