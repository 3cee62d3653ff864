// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Multicall3} from "@market/x402/Multicall3.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract Aggregate3Test is X402Fixture {
    function _calls(bool allowFailure) private view returns (Multicall3.Call3[] memory calls) {
        calls = new Multicall3.Call3[](1);
        calls[0] = Multicall3.Call3(address(token), allowFailure, hex"deadbeef");
    }

    function test_ReportsACallThatMayFail() public {
        assertTrue(!new Multicall3().aggregate3(_calls(true))[0].success, "failed");
    }

    function test_RevertWhen_ACallFailsThatMustNot() public {
        Multicall3 multicall = new Multicall3();
        vm.expectRevert(abi.encodeWithSelector(Multicall3.Multicall3CallFailed.selector, 0));
        multicall.aggregate3(_calls(false));
    }
}
