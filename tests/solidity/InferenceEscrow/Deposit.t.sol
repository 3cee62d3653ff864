// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract DepositTest is Fixture {
    function test_AddsToTheChannel() public {
        fund(payer, 300, address(escrow));
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ChannelFunded(id, payer, gateway, signer, 7, 100, 100);
        vm.prank(payer);
        escrow.deposit(channel, 100);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ChannelFunded(id, payer, gateway, signer, 7, 200, 300);
        vm.prank(payer);
        escrow.deposit(channel, 200);
        (uint128 deposited, uint128 settled, uint128 exitAmount, uint64 exitAt) = escrow.channels(id);
        assertEq(deposited, 300, "deposited");
        assertEq(settled + exitAmount + exitAt, 0, "rest");
        assertBalance(address(escrow), 300);
    }

    function test_AnyoneMayFund() public {
        fund(STRANGER, 5, address(escrow));
        vm.prank(STRANGER);
        escrow.deposit(channel, 5);
        (uint128 deposited,,,) = escrow.channels(id);
        assertEq(deposited, 5, "deposited");
    }

    function test_NewMoneyIsNotExiting() public {
        deposit(100);
        vm.prank(payer);
        escrow.initiateExit(channel, 100);
        settle(1, debits(60, 60), noCredits());
        deposit(100);
        (,, uint128 exitAmount,) = escrow.channels(id);
        assertEq(exitAmount, 40, "exit is cut to what was unclaimed before the deposit");
    }

    function test_LeavesASmallerExitAlone() public {
        deposit(100);
        vm.prank(payer);
        escrow.initiateExit(channel, 30);
        deposit(100);
        (,, uint128 exitAmount,) = escrow.channels(id);
        assertEq(exitAmount, 30, "exit");
    }

    function test_RevertWhen_AmountIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAmount.selector));
        escrow.deposit(channel, 0);
    }

    function test_RevertWhen_APartyIsZero() public {
        bytes memory expected = abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAddress.selector);
        vm.expectRevert(expected);
        escrow.deposit(IInferenceEscrow.Channel(address(0), signer, gateway, 0), 1);
        vm.expectRevert(expected);
        escrow.deposit(IInferenceEscrow.Channel(payer, address(0), gateway, 0), 1);
        vm.expectRevert(expected);
        escrow.deposit(IInferenceEscrow.Channel(payer, signer, address(0), 0), 1);
    }

    function test_RevertWhen_NotApproved() public {
        token.mint(payer, 10);
        vm.expectRevert(
            abi.encodeWithSignature("ERC20InsufficientAllowance(address,uint256,uint256)", address(escrow), 0, 10)
        );
        vm.prank(payer);
        escrow.deposit(channel, 10);
    }
}
