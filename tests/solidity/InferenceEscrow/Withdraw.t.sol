// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract WithdrawTest is Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
        settle(1, debits(100, 100), credits(operator, 90));
    }

    function test_PaysToTheNamedAccount() public {
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.Withdrawn(gateway, operator, STRANGER, 30, 30);
        vm.prank(operator);
        escrow.withdraw(gateway, STRANGER, 30);
        assertBalance(STRANGER, 30);
        vm.prank(operator);
        escrow.withdraw(gateway, operator, 60);
        (uint128 credited, uint128 withdrawn) = escrow.credits(gateway, operator);
        assertEq(credited, 90, "credited never falls");
        assertEq(withdrawn, 90, "withdrawn");
    }

    function test_RevertWhen_AboveTheCredit() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInsufficientCredit.selector, 91, 90));
        vm.prank(operator);
        escrow.withdraw(gateway, operator, 91);
    }

    function test_RevertWhen_TheCallerHasNoCredit() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInsufficientCredit.selector, 1, 0));
        vm.prank(STRANGER);
        escrow.withdraw(gateway, STRANGER, 1);
    }

    function test_RevertWhen_AmountIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAmount.selector));
        vm.prank(operator);
        escrow.withdraw(gateway, operator, 0);
    }
}
