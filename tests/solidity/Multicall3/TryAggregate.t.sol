// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Multicall3} from "@market/x402/Multicall3.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract TryAggregateTest is X402Fixture {
    function _calls() private view returns (Multicall3.Call[] memory calls) {
        calls = new Multicall3.Call[](2);
        calls[0] = Multicall3.Call(address(token), abi.encodeCall(token.balanceOf, (payer)));
        calls[1] = Multicall3.Call(address(token), hex"deadbeef");
    }

    function test_ReportsEachCall() public {
        Multicall3.Result[] memory results = new Multicall3().tryAggregate(false, _calls());
        assertTrue(results[0].success && !results[1].success, "one of two");
        assertEq(abi.decode(results[0].returnData, (uint256)), 0, "balance");
    }

    function test_RevertWhen_ACallFailsThatMustNot() public {
        Multicall3 multicall = new Multicall3();
        vm.expectRevert(abi.encodeWithSelector(Multicall3.Multicall3CallFailed.selector, 1));
        multicall.tryAggregate(true, _calls());
    }
}
