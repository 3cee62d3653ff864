// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

/// @notice All digests, against those of the SDK.
contract X402DigestsTest is X402Fixture {
    bytes32 private constant CHANNEL_ID = 0xb94825b11b0a8df6d6967da78bfe468f3cfe4df382753a5cf1bedf5178768350;
    bytes32 private constant VOUCHER = 0xe4095262ca0ba05cb216506ea7ad91b11b209c43f40e584773b3473520faae7e;
    bytes32 private constant REFUND = 0x8561fc2ecca267831011026daef018547ccce19862fc4c307667d236f78cbbef;
    bytes32 private constant CLAIM_BATCH = 0xf4770b229e0741ce20b9c358efeb45a360b4fa00d41042dfb83d7d78ce7f882c;

    /// @dev Computed by PyPI x402 2.25 for chain 31337.
    function test_DigestsAreTheSdks() public {
        vm.chainId(31_337);
        IX402Channels.ChannelConfig memory known = IX402Channels.ChannelConfig({
            payer: 0x1111111111111111111111111111111111111111,
            payerAuthorizer: 0x2222222222222222222222222222222222222222,
            receiver: 0x3333333333333333333333333333333333333333,
            receiverAuthorizer: 0x4444444444444444444444444444444444444444,
            token: 0x5555555555555555555555555555555555555555,
            withdrawDelay: 900,
            salt: bytes32(uint256(7))
        });
        bytes32 channelId = channels.getChannelId(known);
        assertEq(channelId, CHANNEL_ID, "channel");
        assertEq(channels.getVoucherDigest(channelId, 1_000), VOUCHER, "voucher");
        assertEq(channels.getRefundDigest(channelId, 3, 500), REFUND, "refund");
        IX402Channels.VoucherClaim[] memory rows = new IX402Channels.VoucherClaim[](1);
        rows[0] = IX402Channels.VoucherClaim(IX402Channels.Voucher(known, 1_000), "", 900);
        assertEq(channels.getClaimBatchDigest(rows), CLAIM_BATCH, "claims");
    }
}
