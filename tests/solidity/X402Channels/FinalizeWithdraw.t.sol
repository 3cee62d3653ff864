// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract X402FinalizeWithdrawTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function test_PaysWhatIsUnclaimedAfterTheDelay() public {
        vm.prank(payer);
        channels.initiateWithdraw(config, 90);
        claim(40, 40);
        vm.warp(block.timestamp + DELAY);
        vm.expectEmit(AT);
        emit IX402Channels.WithdrawFinalized(id, 60);
        vm.prank(STRANGER);
        channels.finalizeWithdraw(config);
        assertEq(token.balanceOf(payer), 60, "paid out");
        assertChannel(40, 40);
        channels.settle(seller, address(token));
        assertEq(token.balanceOf(AT), 0, "nothing left");
    }

    function test_RevertWhen_NotReady() public {
        vm.prank(payer);
        channels.initiateWithdraw(config, 90);
        uint256 readyAt = block.timestamp + DELAY;
        vm.warp(readyAt - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IX402Channels.X402ChannelsWithdrawNotReady.selector, readyAt, readyAt - 1)
        );
        channels.finalizeWithdraw(config);
    }

    function test_RevertWhen_NoneIsPending() public {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsNoWithdraw.selector, id));
        channels.finalizeWithdraw(config);
    }
}
