// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title BTNS keys as text and as the 32 bytes of the ed25519 key behind them
/// @notice The text is `k` (multibase: base36, lower case) and 61 digits of a 320-bit number: the
/// CIDv1 of a libp2p ed25519 key, which is the 8 bytes `PREFIX` and the public key. One slot of
/// storage holds the key where its text takes three.
library NameKey {
    /// CIDv1, codec libp2p-key, identity hash of 36 bytes, protobuf of an ed25519 key of 32 bytes.
    uint256 private constant PREFIX = 0x0172002408011220;
    uint256 private constant LENGTH = 62;
    /// The low half of the text has 31 digits, the high half 30: either fits in a word.
    uint256 private constant LOW_DIGITS = 31;
    uint256 private constant BASE = 36 ** LOW_DIGITS;
    /// `PREFIX << 256` divided by `BASE`: quotient and remainder.
    uint256 private constant PREFIX_HIGH = 6853990962767177567202872475379408676054835271;
    uint256 private constant PREFIX_LOW = 783833654814075814626748881524158602812822913024;

    /// @return key The ed25519 key; zero if `text` names none.
    function parse(bytes calldata text) internal pure returns (bytes32 key) {
        if (text.length != LENGTH || text[0] != "k") return 0;
        (bool good, uint256 high) = _number(text[1:LENGTH - LOW_DIGITS]);
        if (!good) return 0;
        uint256 low;
        (good, low) = _number(text[LENGTH - LOW_DIGITS:]);
        if (!good) return 0;
        (uint256 top, uint256 bottom) = Math.mul512(high, BASE);
        unchecked {
            uint256 sum = bottom + low;
            if (sum < bottom) ++top;
            return top == PREFIX ? bytes32(sum) : bytes32(0);
        }
    }

    /// @return The text of a key; empty if it is zero.
    function format(bytes32 key) internal pure returns (string memory) {
        if (key == 0) return "";
        unchecked {
            uint256 low = PREFIX_LOW + uint256(key) % BASE;
            uint256 high = PREFIX_HIGH + uint256(key) / BASE + low / BASE;
            low %= BASE;
            bytes memory text = new bytes(LENGTH);
            text[0] = "k";
            for (uint256 i = LENGTH; i > 1;) {
                --i;
                uint256 digit;
                if (i >= LENGTH - LOW_DIGITS) {
                    digit = low % 36;
                    low /= 36;
                } else {
                    digit = high % 36;
                    high /= 36;
                }
                text[i] = bytes1(uint8(digit < 10 ? 0x30 + digit : 0x57 + digit));
            }
            return string(text);
        }
    }

    /// The number that base36 digits write, and whether all of them are digits. At most 31.
    function _number(bytes calldata digits) private pure returns (bool, uint256 number) {
        unchecked {
            for (uint256 i = 0; i < digits.length; ++i) {
                uint256 c = uint8(digits[i]);
                uint256 digit;
                if (c >= 0x30 && c <= 0x39) digit = c - 0x30;
                else if (c >= 0x61 && c <= 0x7a) digit = c - 0x57;
                else return (false, 0);
                number = number * 36 + digit;
            }
        }
        return (true, number);
    }
}
