// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "./X402Fixture.sol";

contract X402MoneyBackTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function _refund(uint128 amount, uint256 nonce) private {
        bytes memory signature = signDigest(SELLER_KEY, channels.getRefundDigest(id, nonce, amount));
        channels.refundWithSignature(config, amount, nonce, signature);
    }

    function test_APayerLeavesAfterTheDelayWithWhatIsUnclaimed() public {
        vm.expectEmit(AT);
        emit IX402Channels.WithdrawInitiated(id, 90, uint40(block.timestamp) + DELAY);
        vm.prank(payer);
        channels.initiateWithdraw(config, 90);
        claim(40, 40);
        uint256 readyAt = block.timestamp + DELAY;
        vm.expectRevert(
            abi.encodeWithSelector(IX402Channels.X402ChannelsWithdrawNotReady.selector, readyAt, block.timestamp)
        );
        channels.finalizeWithdraw(config);
        vm.warp(readyAt);
        channels.finalizeWithdraw(config);
        assertEq(token.balanceOf(payer), 60, "paid out");
        assertChannel(40, 40);
        channels.settle(seller, address(token));
        assertEq(token.balanceOf(AT), 0, "nothing left");
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsNoWithdraw.selector, id));
        channels.finalizeWithdraw(config);
    }

    function test_RevertWhen_AStrangerLeavesOrTwice() public {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsNotAuthorized.selector, STRANGER));
        vm.prank(STRANGER);
        channels.initiateWithdraw(config, 1);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsInsufficientUnclaimed.selector, 101, 100));
        channels.initiateWithdraw(config, 101);
        vm.prank(config.payerAuthorizer);
        channels.initiateWithdraw(config, 1);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsWithdrawPending.selector, block.timestamp));
        channels.initiateWithdraw(config, 1);
    }

    function test_TheSellerRefundsOncePerNonce() public {
        claim(40, 40);
        vm.expectEmit(AT);
        emit IX402Channels.Refunded(id, address(this), 20);
        _refund(20, 0);
        assertChannel(80, 40);
        assertEq(channels.refundNonce(id), 1, "nonce");
        bytes memory signature = signDigest(SELLER_KEY, channels.getRefundDigest(id, 0, 20));
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsRefundNonce.selector, 0, 1));
        channels.refundWithSignature(config, 20, 0, signature);
        _refund(1_000, 1);
        assertChannel(40, 40);
        assertEq(token.balanceOf(payer), 60, "refunded");
    }

    function test_RevertWhen_AnotherSignsTheRefund() public {
        bytes memory signature = signDigest(PAYER_KEY, channels.getRefundDigest(id, 0, 20));
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsInvalidSignature.selector, seller));
        channels.refundWithSignature(config, 20, 0, signature);
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsNotAuthorized.selector, payer));
        vm.prank(payer);
        channels.refund(config, 20);
        vm.prank(seller);
        channels.refund(config, 20);
        assertChannel(80, 0);
    }

    function test_ARefundEndsAWithdrawalItCovers() public {
        vm.prank(payer);
        channels.initiateWithdraw(config, 90);
        _refund(30, 0);
        (uint128 amount,) = channels.pendingWithdrawals(id);
        assertEq(amount, 70, "capped");
        _refund(70, 1);
        (, uint40 initiatedAt) = channels.pendingWithdrawals(id);
        assertEq(initiatedAt, 0, "ended");
        assertEq(token.balanceOf(payer), 100, "all back");
    }

    function test_ClaimAndRefundInOneTransaction() public {
        IX402Channels.VoucherClaim[] memory rows = row(SESSION_KEY, 40, 40);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(
            IX402Channels.claimWithSignature, (rows, signDigest(SELLER_KEY, channels.getClaimBatchDigest(rows)))
        );
        calls[1] = abi.encodeCall(
            IX402Channels.refundWithSignature,
            (config, 60, 0, signDigest(SELLER_KEY, channels.getRefundDigest(id, 0, 60)))
        );
        channels.multicall(calls);
        assertChannel(40, 40);
        assertEq(token.balanceOf(payer), 60, "refunded");
    }

    /// @dev Whatever the order of claims and refunds, the contract holds what payer and receiver still own.
    function testFuzz_MoneyIsConserved(uint128 first, uint128 second, uint128 back) public {
        first = uint128(bound(first, 1, 100));
        claim(first, first);
        back = uint128(bound(back, 1, 200));
        if (first < 100) _refund(back, 0);
        (uint128 balance,) = channels.channels(id);
        second = uint128(bound(second, first, balance));
        claim(second, second);
        channels.settle(seller, address(token));
        (uint128 left, uint128 claimed) = channels.channels(id);
        assertEq(token.balanceOf(AT), left - claimed, "held");
        assertEq(token.balanceOf(seller), claimed, "received");
        assertEq(token.balanceOf(AT) + token.balanceOf(seller) + token.balanceOf(payer), 100, "all of it");
    }
}
