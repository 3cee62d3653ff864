// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {Quick} from "../support/Quick.sol";
import {X402Fixture} from "../support/X402Fixture.sol";

contract X402SettleTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function signature(uint256 key, bytes32 digest) internal pure override returns (uint8, bytes32, bytes32) {
        return Quick.sign(key, digest);
    }

    function test_SweepsWhatWasClaimed() public {
        claim(50, 50);
        vm.expectEmit(AT);
        emit IX402Channels.Settled(seller, address(token), address(this), 50);
        channels.settle(seller, address(token));
        assertEq(token.balanceOf(seller), 50, "swept");
        (uint128 total, uint128 settled) = channels.receivers(seller, address(token));
        assertEq(total, 50, "total");
        assertEq(settled, 50, "settled");
    }

    /// @dev Whatever the order of claims and refunds, the contract holds what payer and receiver still own.
    function testFuzz_MoneyIsConserved(uint128 first, uint128 second, uint128 back) public {
        first = uint128(bound(first, 1, 100));
        claim(first, first);
        back = uint128(bound(back, 1, 200));
        if (first < 100) refund(back, 0);
        (uint128 balance,) = channels.channels(id);
        second = uint128(bound(second, first, balance));
        claim(second, second);
        channels.settle(seller, address(token));
        (uint128 left, uint128 claimed) = channels.channels(id);
        assertEq(token.balanceOf(AT), left - claimed, "held");
        assertEq(token.balanceOf(seller), claimed, "received");
        assertEq(token.balanceOf(AT) + token.balanceOf(seller) + token.balanceOf(payer), 100, "all of it");
    }

    function test_RevertWhen_NothingIsClaimed() public {
        claim(50, 50);
        channels.settle(seller, address(token));
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsZeroAmount.selector));
        channels.settle(seller, address(token));
    }
}
