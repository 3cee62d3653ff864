// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {GatewayState, Pair, gatewayState} from "@market/libraries/Packing.sol";

/// @notice Checks of the hand-packed words, apart from tests that have functions of the same names.
library Packed {
    error Lost(uint256 word);

    function checkPair(uint128 a, uint128 b, uint128 c) internal pure {
        Pair word = Pair.wrap(uint256(b) << 128 | a);
        bool kept = word.first() == a && word.second() == b && word.withFirst(c).first() == c
            && word.withFirst(c).second() == b && word.withSecond(c).first() == a && word.withSecond(c).second() == c;
        if (!kept) revert Lost(Pair.unwrap(word));
    }

    function checkGatewayState(uint128 a, uint64 b, uint64 c, uint128 d) internal pure {
        GatewayState word = gatewayState(a, b, c);
        GatewayState changed = word.withReserve(d);
        bool kept = word.reserve() == a && word.lastEpoch() == b && word.receiptCount() == c && changed.reserve() == d
            && changed.lastEpoch() == b && changed.receiptCount() == c;
        if (!kept) revert Lost(GatewayState.unwrap(word));
    }
}
