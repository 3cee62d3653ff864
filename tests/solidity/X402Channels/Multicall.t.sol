// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract X402MulticallTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
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

    function test_RevertWhen_OneCallFails() public {
        claim(40, 40);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IX402Channels.settle, (seller, address(token)));
        calls[1] = calls[0];
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsZeroAmount.selector));
        channels.multicall(calls);
        assertEq(token.balanceOf(seller), 0, "all or nothing");
    }
}
