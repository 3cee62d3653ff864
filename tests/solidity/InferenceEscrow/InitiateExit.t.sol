// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract InitiateExitTest is Fixture {
    function test_StartsTheClock() public {
        deposit(100);
        uint64 exitAt = uint64(block.timestamp) + EXIT_DELAY;
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ExitInitiated(id, 40, exitAt);
        vm.prank(payer);
        escrow.initiateExit(channel, 40);
        (,, uint128 exitAmount, uint64 stored) = escrow.channels(id);
        assertEq(exitAmount, 40, "amount");
        assertEq(stored, exitAt, "at");
    }

    function test_RevertWhen_NotThePayer() public {
        deposit(100);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNotPayer.selector, payer, STRANGER));
        vm.prank(STRANGER);
        escrow.initiateExit(channel, 40);
    }

    function test_RevertWhen_AmountIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAmount.selector));
        vm.prank(payer);
        escrow.initiateExit(channel, 0);
    }

    function test_RevertWhen_AboveTheUnclaimed() public {
        deposit(100);
        settle(1, debits(30, 30), noCredits());
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInsufficientUnclaimed.selector, 71, 70));
        vm.prank(payer);
        escrow.initiateExit(channel, 71);
    }

    function test_RevertWhen_OneIsPending() public {
        deposit(100);
        uint64 exitAt = uint64(block.timestamp) + EXIT_DELAY;
        vm.startPrank(payer);
        escrow.initiateExit(channel, 40);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowExitPending.selector, 40, exitAt));
        escrow.initiateExit(channel, 40);
        vm.stopPrank();
    }
}
