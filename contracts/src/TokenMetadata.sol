// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

/// @title How a wallet or a market shows a storage token
/// @notice Everything that goes in is a number or a package name made of digits and a unit, so
/// nothing needs escaping.
library TokenMetadata {
    using Strings for uint256;

    /// @return The `data:` URI of the token's JSON, its picture included.
    function uri(uint256 tokenId, string memory capacity, uint256 usedPercent, uint256 lastUpdateTimestamp)
        internal
        pure
        returns (string memory)
    {
        string memory json = string.concat(
            '{"name":"PollinationX #',
            tokenId.toString(),
            '","description":"Decentralised storage that an NFT grants","image":"data:image/svg+xml;base64,',
            Base64.encode(bytes(picture(capacity, usedPercent))),
            '","attributes":[{"display_type":"boost_percentage","trait_type":"Usage","value":',
            usedPercent.toString(),
            '},{"trait_type":"Capacity","value":"',
            capacity,
            '"},{"trait_type":"Bandwidth","value":"unlimited"},{"display_type":"date","trait_type":"Last sync","value":',
            lastUpdateTimestamp.toString(),
            "}]}"
        );
        return string.concat("data:application/json;base64,", Base64.encode(bytes(json)));
    }

    /// @return An SVG: the capacity above a bar that is filled to the used percentage.
    function picture(string memory capacity, uint256 usedPercent) internal pure returns (string memory) {
        uint256 filled = usedPercent > 100 ? 100 : usedPercent;
        return string.concat(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 120">'
            '<rect width="120" height="120" fill="#14213d"/><text x="60" y="58" fill="#fff" font-family="sans-serif"'
            ' font-size="24" text-anchor="middle">',
            capacity,
            '</text><rect x="10" y="80" width="100" height="10" fill="#fff"/><rect x="10" y="80" width="',
            filled.toString(),
            '" height="10" fill="#fca311"/></svg>'
        );
    }
}
