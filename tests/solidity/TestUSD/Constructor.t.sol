// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "../support/Fixture.sol";

contract TestUSDConstructorTest is Fixture {
    function test_LooksLikeUSDC() public view {
        assertEq(token.decimals(), 6, "decimals");
        assertEq(keccak256(bytes(token.symbol())), keccak256("tUSD"), "symbol");
        assertEq(keccak256(bytes(token.version())), keccak256("1"), "version");
    }
}
