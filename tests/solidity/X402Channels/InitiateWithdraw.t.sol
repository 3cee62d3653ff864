// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract X402InitiateWithdrawTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function test_StartsTheClock() public {
        vm.expectEmit(AT);
        emit IX402Channels.WithdrawInitiated(id, 90, uint40(block.timestamp) + DELAY);
        vm.prank(payer);
        channels.initiateWithdraw(config, 90);
        (uint128 amount, uint40 initiatedAt) = channels.pendingWithdrawals(id);
        assertEq(amount, 90, "amount");
        assertEq(initiatedAt, block.timestamp, "at");
    }

    function test_RevertWhen_NeitherPayerNorItsKey() public {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsNotAuthorized.selector, STRANGER));
        vm.prank(STRANGER);
        channels.initiateWithdraw(config, 1);
    }

    function test_RevertWhen_AmountIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsZeroAmount.selector));
        vm.prank(payer);
        channels.initiateWithdraw(config, 0);
    }

    function test_RevertWhen_AboveTheUnclaimed() public {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsInsufficientUnclaimed.selector, 101, 100));
        vm.prank(payer);
        channels.initiateWithdraw(config, 101);
    }

    function test_RevertWhen_OneIsPending() public {
        vm.prank(config.payerAuthorizer);
        channels.initiateWithdraw(config, 1);
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsWithdrawPending.selector, block.timestamp));
        vm.prank(payer);
        channels.initiateWithdraw(config, 1);
    }
}
