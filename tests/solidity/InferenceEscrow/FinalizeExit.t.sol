// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract FinalizeExitTest is Fixture {
    function _exit(uint128 amount) private {
        vm.prank(payer);
        escrow.initiateExit(channel, amount);
    }

    function test_PaysThePayerWhoeverCalls() public {
        deposit(100);
        _exit(40);
        vm.warp(block.timestamp + EXIT_DELAY);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ExitFinalized(id, 40, 60);
        vm.prank(STRANGER);
        escrow.finalizeExit(channel);
        assertBalance(payer, 40);
        assertBalance(address(escrow), 60);
        (uint128 deposited,, uint128 exitAmount, uint64 exitAt) = escrow.channels(id);
        assertEq(deposited, 60, "deposited");
        assertEq(exitAmount + exitAt, 0, "exit");
    }

    function test_PaysWhatSettlementLeft() public {
        deposit(100);
        _exit(100);
        settle(1, debits(75, 75), noCredits());
        vm.warp(block.timestamp + EXIT_DELAY);
        escrow.finalizeExit(channel);
        assertBalance(payer, 25);
    }

    function test_SucceedsWithNothingLeft() public {
        deposit(100);
        _exit(100);
        settle(1, debits(100, 100), noCredits());
        vm.warp(block.timestamp + EXIT_DELAY);
        escrow.finalizeExit(channel);
        assertBalance(payer, 0);
    }

    function test_ALaterDepositDoesNotLeave() public {
        deposit(100);
        _exit(100);
        deposit(50);
        vm.warp(block.timestamp + EXIT_DELAY);
        escrow.finalizeExit(channel);
        assertBalance(payer, 100);
        (uint128 deposited,,,) = escrow.channels(id);
        assertEq(deposited, 50, "deposited");
    }

    /// @dev An old voucher is worth nothing after the channel was emptied and filled again: `settled` never starts anew.
    function test_AnEmptiedChannelKeepsItsCount() public {
        deposit(100);
        settle(1, debits(60, 60), noCredits());
        _exit(40);
        vm.warp(block.timestamp + EXIT_DELAY);
        escrow.finalizeExit(channel);
        deposit(100);
        settle(2, debits(60, 60), noCredits());
        (uint128 deposited, uint128 settled,,) = escrow.channels(id);
        assertEq(deposited, 160, "deposited");
        assertEq(settled, 60, "settled by the old voucher");
        settle(3, debits(80, 80), noCredits());
        (, settled,,) = escrow.channels(id);
        assertEq(settled, 80, "settled by the new voucher");
        (uint128 reserve,,) = escrow.reserves(gateway);
        assertEq(reserve, 80, "reserve");
    }

    function test_RevertWhen_NotReady() public {
        deposit(100);
        _exit(100);
        uint64 exitAt = uint64(block.timestamp) + EXIT_DELAY;
        vm.warp(exitAt - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowExitNotReady.selector, exitAt, exitAt - 1)
        );
        escrow.finalizeExit(channel);
    }

    function test_RevertWhen_NoneOrDone() public {
        deposit(100);
        _exit(100);
        vm.warp(block.timestamp + EXIT_DELAY);
        escrow.finalizeExit(channel);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNoExit.selector, id));
        escrow.finalizeExit(channel);
    }

    /// @dev I7: whatever is settled meanwhile, exit and settlement share the deposit without a unit lost or made.
    function testFuzz_ExitAndSettlementShareTheDeposit(uint128 amount, uint128 exiting, uint128 claim) public {
        amount = uint128(bound(amount, 1, 1e18));
        exiting = uint128(bound(exiting, 1, amount));
        claim = uint128(bound(claim, 1, 2e18));
        deposit(amount);
        _exit(exiting);
        settle(1, debits(claim, claim), noCredits());
        vm.warp(block.timestamp + EXIT_DELAY);
        escrow.finalizeExit(channel);
        uint256 settled = claim < amount ? claim : amount;
        uint256 left = amount - settled;
        assertBalance(payer, exiting < left ? exiting : left);
        (uint128 reserve,,) = escrow.reserves(gateway);
        assertEq(reserve, settled, "reserve");
    }
}
