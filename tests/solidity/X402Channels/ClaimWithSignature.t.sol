// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract X402ClaimWithSignatureTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function test_ClaimsGrow() public {
        vm.expectEmit(AT);
        emit IX402Channels.Claimed(id, address(this), 30, 30);
        claim(50, 30);
        claim(50, 50);
        assertChannel(100, 50);
    }

    function test_AStaleRowIsSkipped() public {
        claim(50, 50);
        claim(50, 40);
        claim(50, 50);
        assertChannel(100, 50);
    }

    function test_SeveralRowsOfOneAuthorizerAreOneBatch() public {
        IX402Channels.VoucherClaim[] memory rows = new IX402Channels.VoucherClaim[](2);
        rows[0] = row(SESSION_KEY, 50, 30)[0];
        rows[1] = row(SESSION_KEY, 70, 70)[0];
        bytes memory signature = signDigest(SELLER_KEY, channels.getClaimBatchDigest(rows));
        vm.expectEmit(AT);
        emit IX402Channels.Claimed(id, address(this), 30, 30);
        vm.expectEmit(AT);
        emit IX402Channels.Claimed(id, address(this), 40, 70);
        channels.claimWithSignature(rows, signature);
        assertChannel(100, 70);
    }

    function test_RevertWhen_AboveTheVoucher() public {
        IX402Channels.VoucherClaim[] memory rows = row(SESSION_KEY, 50, 51);
        bytes memory signature = signDigest(SELLER_KEY, channels.getClaimBatchDigest(rows));
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsClaimAboveVoucher.selector, 51, 50));
        channels.claimWithSignature(rows, signature);
    }

    function test_RevertWhen_AboveTheBalance() public {
        IX402Channels.VoucherClaim[] memory rows = row(SESSION_KEY, 101, 101);
        bytes memory signature = signDigest(SELLER_KEY, channels.getClaimBatchDigest(rows));
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsClaimAboveBalance.selector, 101, 100));
        channels.claimWithSignature(rows, signature);
    }

    function test_RevertWhen_ThePayerSignedInsteadOfItsSessionKey() public {
        IX402Channels.VoucherClaim[] memory rows = row(PAYER_KEY, 50, 50);
        bytes memory signature = signDigest(SELLER_KEY, channels.getClaimBatchDigest(rows));
        vm.expectRevert(
            abi.encodeWithSelector(IX402Channels.X402ChannelsInvalidSignature.selector, config.payerAuthorizer)
        );
        channels.claimWithSignature(rows, signature);
    }

    function test_RevertWhen_AnotherSignsTheBatch() public {
        IX402Channels.VoucherClaim[] memory rows = row(SESSION_KEY, 50, 50);
        bytes memory signature = signDigest(PAYER_KEY, channels.getClaimBatchDigest(rows));
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsInvalidSignature.selector, seller));
        channels.claimWithSignature(rows, signature);
    }

    function test_RevertWhen_AuthorizersDiffer() public {
        IX402Channels.VoucherClaim[] memory rows = new IX402Channels.VoucherClaim[](2);
        rows[0] = row(SESSION_KEY, 50, 50)[0];
        rows[1] = rows[0];
        IX402Channels.ChannelConfig memory other = config;
        other.receiverAuthorizer = STRANGER;
        rows[1] = IX402Channels.VoucherClaim(IX402Channels.Voucher(other, 50), rows[0].signature, 50);
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsAuthorizersDiffer.selector, seller, STRANGER));
        channels.claimWithSignature(rows, "");
    }

    function test_RevertWhen_ThereIsNoRow() public {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsZeroAmount.selector));
        channels.claimWithSignature(new IX402Channels.VoucherClaim[](0), "");
    }
}
