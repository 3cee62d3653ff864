// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract X402RefundWithSignatureTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function test_PaysWhatIsUnclaimedAtMost() public {
        claim(40, 40);
        vm.expectEmit(AT);
        emit IX402Channels.Refunded(id, address(this), 20);
        refund(20, 0);
        assertChannel(80, 40);
        assertEq(channels.refundNonce(id), 1, "nonce");
        refund(1_000, 1);
        assertChannel(40, 40);
        assertEq(token.balanceOf(payer), 60, "refunded");
    }

    function test_ARefundEndsAWithdrawalItCovers() public {
        vm.prank(payer);
        channels.initiateWithdraw(config, 90);
        refund(30, 0);
        (uint128 amount,) = channels.pendingWithdrawals(id);
        assertEq(amount, 70, "capped");
        refund(70, 1);
        (, uint40 initiatedAt) = channels.pendingWithdrawals(id);
        assertEq(initiatedAt, 0, "ended");
        assertEq(token.balanceOf(payer), 100, "all back");
    }

    function test_RevertWhen_Replayed() public {
        refund(20, 0);
        bytes memory signature = signDigest(SELLER_KEY, channels.getRefundDigest(id, 0, 20));
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsRefundNonce.selector, 0, 1));
        channels.refundWithSignature(config, 20, 0, signature);
    }

    function test_RevertWhen_AnotherSigns() public {
        bytes memory signature = signDigest(PAYER_KEY, channels.getRefundDigest(id, 0, 20));
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsInvalidSignature.selector, seller));
        channels.refundWithSignature(config, 20, 0, signature);
    }
}
