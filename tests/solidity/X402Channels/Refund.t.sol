// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract X402RefundTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function test_TheSellerGivesBack() public {
        vm.expectEmit(AT);
        emit IX402Channels.Refunded(id, seller, 20);
        vm.prank(seller);
        channels.refund(config, 20);
        assertChannel(80, 0);
        assertEq(token.balanceOf(payer), 20, "refunded");
    }

    function test_RevertWhen_NotTheSeller() public {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsNotAuthorized.selector, payer));
        vm.prank(payer);
        channels.refund(config, 20);
    }

    function test_RevertWhen_NothingIsUnclaimed() public {
        claim(100, 100);
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsZeroAmount.selector));
        vm.prank(seller);
        channels.refund(config, 20);
    }
}
