// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {Owned} from "./Owned.sol";
import {IReceiver} from "./interfaces/IReceiver.sol";

/// @title Delivers oracle reports on chains where Chainlink's network does not run
/// @notice A report is handed to its receiver when `threshold` of the operators have signed it, for
/// this chain, this forwarder and this receiver. Anyone may deliver: the signatures count, not the
/// sender. A delivery can be repeated; a receiver that closes its request with the first, as
/// `PxSync` does, ignores the second. What a receiver pays for a report is shared by those who signed
/// it; each takes his share with `withdraw`.
contract OracleForwarder is EIP712, Owned, ReentrancyGuard {
    /// @notice Most operators a forwarder can have.
    uint256 public constant MAX_OPERATORS = 32;

    bytes32 private constant REPORT_TYPE = keccak256("Report(address receiver,bytes metadata,bytes report)");

    /// @notice How many operators must sign.
    uint256 public threshold;
    /// @notice Whether an address is an operator.
    mapping(address => bool) public isOperator;
    address[] private _operators;
    /// @notice What an address has earned by signing and not withdrawn, in wei.
    mapping(address => uint256) public earned;
    /// The sum of `earned`.
    uint256 private _owed;

    event OperatorsSet(address[] operators, uint256 threshold);
    event Delivered(address indexed receiver, bytes32 indexed digest);
    event Withdrawn(address indexed operator, uint256 amount);

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
        nonReentrant
    {
        bytes32 hash = digest(address(receiver), metadata, report);
        require(signatures.length >= threshold, "too few signatures");
        address last = address(0);
        address[] memory signers = new address[](signatures.length);
        for (uint256 i = 0; i < signatures.length; ++i) {
            address signer = ECDSA.recover(hash, signatures[i]);
            require(isOperator[signer], "not an operator");
            require(signer > last, "signatures not in order");
            last = signer;
            signers[i] = signer;
        }
        emit Delivered(address(receiver), hash);
        receiver.onReport(metadata, report);
        _share(signers);
    }

    /// @notice Takes what a receiver pays for a report.
    receive() external payable {}

    /// @notice Sends an operator, present or past, what he has earned.
    function withdraw() external nonReentrant {
        uint256 amount = earned[msg.sender];
        delete earned[msg.sender];
        _owed -= amount;
        (bool sent,) = msg.sender.call{value: amount}("");
        require(sent, "payment refused");
        emit Withdrawn(msg.sender, amount);
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

    /// Credits what nobody has earned yet, in equal shares; a remainder waits for the next report.
    function _share(address[] memory signers) private {
        uint256 share = (address(this).balance - _owed) / signers.length;
        if (share == 0) return;
        _owed += share * signers.length;
        for (uint256 i = 0; i < signers.length; ++i) {
            earned[signers[i]] += share;
        }
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
