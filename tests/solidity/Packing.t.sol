// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Packed} from "./support/Packed.sol";

/// @notice The hand-packed words of `libraries/Packing.sol`.
contract PackingTest {
    function testFuzz_PairKeepsItsHalves(uint128 a, uint128 b, uint128 c) public pure {
        Packed.checkPair(a, b, c);
    }

    function testFuzz_GatewayStateKeepsItsFields(uint128 a, uint64 b, uint64 c, uint128 d) public pure {
        Packed.checkGatewayState(a, b, c, d);
    }
}
