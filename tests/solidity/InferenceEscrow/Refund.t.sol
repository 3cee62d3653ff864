// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "../support/Fixture.sol";

contract RefundTest is Fixture {
    function _consent(uint64 nonce, uint128 amount) private view returns (bytes memory) {
        return sign(GATEWAY_KEY, TypedData.hashRefund(id, nonce, amount));
    }

    function test_PaysAtOnce() public {
        deposit(100);
        bytes memory consent = _consent(0, 30);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.Refunded(id, 0, 30, 70);
        vm.prank(STRANGER);
        escrow.refund(channel, 0, 30, consent);
        assertBalance(payer, 30);
        assertEq(escrow.refundNonce(id), 1, "nonce");
        escrow.refund(channel, 1, 70, _consent(1, 70));
        assertBalance(payer, 100);
    }

    function test_RevertWhen_Replayed() public {
        deposit(100);
        bytes memory consent = _consent(0, 30);
        escrow.refund(channel, 0, 30, consent);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowRefundNonce.selector, 0, 1));
        escrow.refund(channel, 0, 30, consent);
    }

    function test_RevertWhen_AboveTheUnclaimed() public {
        deposit(100);
        settle(1, debits(80, 80), noCredits());
        bytes memory consent = _consent(0, 21);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInsufficientUnclaimed.selector, 21, 20));
        escrow.refund(channel, 0, 21, consent);
    }

    function test_RevertWhen_TheGatewayDidNotSign() public {
        deposit(100);
        bytes memory consent = sign(PAYER_KEY, TypedData.hashRefund(id, 0, 10));
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInvalidSigner.selector, payer, gateway));
        escrow.refund(channel, 0, 10, consent);
    }
}
