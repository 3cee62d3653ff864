// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract CancelExitTest is Fixture {
    function test_Cancels() public {
        deposit(100);
        vm.startPrank(payer);
        escrow.initiateExit(channel, 40);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ExitCancelled(id);
        escrow.cancelExit(channel);
        vm.stopPrank();
        (uint128 deposited,, uint128 exitAmount, uint64 exitAt) = escrow.channels(id);
        assertEq(deposited, 100, "deposited");
        assertEq(exitAmount + exitAt, 0, "exit");
    }

    function test_RevertWhen_NotThePayer() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNotPayer.selector, payer, gateway));
        vm.prank(gateway);
        escrow.cancelExit(channel);
    }

    function test_RevertWhen_NonePending() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNoExit.selector, id));
        vm.prank(payer);
        escrow.cancelExit(channel);
    }
}
