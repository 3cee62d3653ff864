// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "../support/Fixture.sol";

contract RedeemCreditNoteTest is Fixture {
    function _note(address payee, uint128 cumulative) private view returns (bytes memory) {
        return sign(GATEWAY_KEY, TypedData.hashCreditNote(gateway, payee, cumulative));
    }

    function _credited(address payee) private view returns (uint128 credited) {
        (credited,) = escrow.credits(gateway, payee);
    }

    function test_CreditsFromTheReserve() public {
        fundReserve(100);
        bytes memory note = _note(operator, 80);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.NoteRedeemed(gateway, operator, 80, 80, 0, 20);
        vm.prank(STRANGER);
        escrow.redeemCreditNote(gateway, operator, 80, note);
        vm.prank(operator);
        escrow.withdraw(gateway, operator, 80);
        assertBalance(operator, 80);
    }

    function test_RemembersWhatTheReserveCannotPay() public {
        fundReserve(30);
        bytes memory note = _note(operator, 80);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.NoteRedeemed(gateway, operator, 30, 30, 50, 0);
        escrow.redeemCreditNote(gateway, operator, 80, note);
        assertEq(escrow.arrears(gateway), 50, "arrears");
        fundReserve(60);
        escrow.redeemCreditNote(gateway, operator, 80, "");
        assertEq(_credited(operator), 80, "paid without signing again");
        assertEq(escrow.arrears(gateway), 0, "arrears");
        (uint128 cumulative, uint128 owed) = escrow.notes(gateway, operator);
        assertEq(cumulative, 80, "note");
        assertEq(owed, 0, "owed");
    }

    function test_ArrearsBarTheReserveFromLeaving() public {
        escrow.redeemCreditNote(gateway, operator, 80, _note(operator, 80));
        fundReserve(100);
        vm.prank(gateway);
        escrow.thawReserve(100);
        vm.warp(block.timestamp + RESERVE_THAW);
        vm.prank(gateway);
        escrow.withdrawReserve(gateway);
        assertBalance(gateway, 20);
        escrow.redeemCreditNote(gateway, operator, 0, "");
        assertEq(_credited(operator), 80, "credited");
    }

    function test_ArrearsComeBeforeALaterBatch() public {
        escrow.redeemCreditNote(gateway, operator, 80, _note(operator, 80));
        fundReserve(100);
        settle(1, noDebits(), credits(owner, 50));
        assertEq(_credited(owner), 20, "only what the note leaves");
        escrow.redeemCreditNote(gateway, operator, 80, "");
        assertEq(_credited(operator), 80, "note in full");
    }

    function test_ABatchThatPaidTheNoteIsSeen() public {
        deposit(100);
        escrow.redeemCreditNote(gateway, operator, 80, _note(operator, 80));
        settle(1, debits(100, 100), credits(operator, 80));
        assertEq(escrow.arrears(gateway), 80, "not looked at by the batch");
        escrow.redeemCreditNote(gateway, operator, 0, "");
        assertEq(escrow.arrears(gateway), 0, "cleared by presenting again");
        assertEq(_credited(operator), 80, "not paid twice");
    }

    function test_RevertWhen_AlreadyCredited() public {
        fundReserve(100);
        bytes memory note = _note(operator, 80);
        escrow.redeemCreditNote(gateway, operator, 80, note);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNothingToRedeem.selector, 80, 80));
        escrow.redeemCreditNote(gateway, operator, 80, note);
    }

    function test_RevertWhen_TheGatewayDidNotSign() public {
        fundReserve(100);
        bytes memory forged = sign(OPERATOR_KEY, TypedData.hashCreditNote(gateway, operator, 80));
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInvalidSigner.selector, operator, gateway)
        );
        escrow.redeemCreditNote(gateway, operator, 80, forged);
    }
}
