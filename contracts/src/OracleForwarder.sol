// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IReceiver} from "./interfaces/IReceiver.sol";

/// @title Delivers oracle reports on chains where Chainlink's network does not run
/// @notice A report is handed to its receiver when `threshold` of the operators have signed it, for
/// this chain, this forwarder and this receiver. Anyone may deliver: the signatures count, not the
/// sender. A delivery can be repeated; a receiver that closes its request with the first, as
/// `PxSync` does, ignores the second.
contract OracleForwarder is EIP712, Ownable2Step {
    /// @notice Most operators a forwarder can have.
    uint256 public constant MAX_OPERATORS = 32;

    bytes32 private constant REPORT_TYPE = keccak256("Report(address receiver,bytes metadata,bytes report)");

    /// @notice How many operators must sign.
    uint256 public threshold;
    /// @notice Whether an address is an operator.
    mapping(address => bool) public isOperator;
    address[] private _operators;

    event OperatorsSet(address[] operators, uint256 threshold);
    event Delivered(address indexed receiver, bytes32 indexed digest);

    /// @param owner_ Sets the operators.
    /// @param operators_ As in `setOperators`.
    /// @param threshold_ As in `setOperators`.
    constructor(address owner_, address[] memory operators_, uint256 threshold_)
        EIP712("PxOracleForwarder", "1")
        Ownable(owner_)
    {
        _setOperators(operators_, threshold_);
    }

    /// @notice Hands a report to its receiver.
    /// @param signatures At least `threshold` signatures of `digest`, each 65 bytes (r, s, v) with
    /// the lower s, by different operators, in ascending order of their addresses.
    function deliver(IReceiver receiver, bytes calldata metadata, bytes calldata report, bytes[] calldata signatures)
        external
    {
        bytes32 hash = digest(address(receiver), metadata, report);
        require(signatures.length >= threshold, "too few signatures");
        address last = address(0);
        for (uint256 i = 0; i < signatures.length; ++i) {
            address signer = ECDSA.recover(hash, signatures[i]);
            require(isOperator[signer], "not an operator");
            require(signer > last, "signatures not in order");
            last = signer;
        }
        emit Delivered(address(receiver), hash);
        receiver.onReport(metadata, report);
    }

    /// @notice What an operator signs: EIP-712 `Report(address receiver,bytes metadata,bytes report)`
    /// in the domain of this chain and this contract, named `PxOracleForwarder`, version `1`.
    function digest(address receiver, bytes calldata metadata, bytes calldata report) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(abi.encode(REPORT_TYPE, receiver, keccak256(metadata), keccak256(report)))
        );
    }

    /// @notice Puts these operators in place of the present ones. The owner alone.
    /// @param operators_ In ascending order, at most `MAX_OPERATORS`.
    /// @param threshold_ How many of them must sign, at least one.
    function setOperators(address[] calldata operators_, uint256 threshold_) external onlyOwner {
        _setOperators(operators_, threshold_);
    }

    /// @notice The operators, in ascending order.
    function operators() external view returns (address[] memory) {
        return _operators;
    }

    function _setOperators(address[] memory operators_, uint256 threshold_) private {
        require(operators_.length <= MAX_OPERATORS, "too many operators");
        require(threshold_ != 0 && threshold_ <= operators_.length, "threshold out of range");
        for (uint256 i = 0; i < _operators.length; ++i) {
            isOperator[_operators[i]] = false;
        }
        address last = address(0);
        for (uint256 i = 0; i < operators_.length; ++i) {
            require(operators_[i] > last, "operators not in order");
            last = operators_[i];
            isOperator[last] = true;
        }
        _operators = operators_;
        threshold = threshold_;
        emit OperatorsSet(operators_, threshold_);
    }
}
