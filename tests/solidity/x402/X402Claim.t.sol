// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "./X402Fixture.sol";

/// @notice A payer with code that takes one digest, as EIP-1271 has it.
contract Wallet {
    bytes32 private immutable _DIGEST;

    constructor(bytes32 digest) {
        _DIGEST = digest;
    }

    function isValidSignature(bytes32 digest, bytes calldata) external view returns (bytes4) {
        return digest == _DIGEST ? this.isValidSignature.selector : bytes4(0);
    }
}

contract X402ClaimTest is X402Fixture {
    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function test_ClaimsGrowAndAreSwept() public {
        vm.expectEmit(AT);
        emit IX402Channels.Claimed(id, address(this), 30, 30);
        claim(50, 30);
        claim(50, 50);
        assertChannel(100, 50);
        vm.expectEmit(AT);
        emit IX402Channels.Settled(seller, address(token), address(this), 50);
        channels.settle(seller, address(token));
        assertEq(token.balanceOf(seller), 50, "swept");
        (uint128 total, uint128 settled) = channels.receivers(seller, address(token));
        assertEq(total, 50, "total");
        assertEq(settled, 50, "settled");
        vm.expectRevert(abi.encodePacked(IX402Channels.X402ChannelsZeroAmount.selector));
        channels.settle(seller, address(token));
    }

    function test_AStaleRowIsSkipped() public {
        claim(50, 50);
        claim(50, 40);
        claim(50, 50);
        assertChannel(100, 50);
    }

    function test_TheAuthorizerClaimsWithoutASignature() public {
        IX402Channels.VoucherClaim[] memory rows = row(SESSION_KEY, 50, 50);
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsNotAuthorized.selector, STRANGER));
        vm.prank(STRANGER);
        channels.claim(rows);
        vm.prank(seller);
        channels.claim(rows);
        assertChannel(100, 50);
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

    function test_AContractWalletSignsWhereNoSessionKeyIsNamed() public {
        config.payerAuthorizer = address(0);
        id = channels.getChannelId(config);
        token.mint(payer, 50);
        channels.deposit(config, 50, address(collector), authorization(id, 50, 9));
        vm.etch(payer, address(new Wallet(channels.getVoucherDigest(id, 20))).code);
        IX402Channels.VoucherClaim[] memory rows = row(STRANGER_KEY, 20, 20);
        vm.prank(seller);
        channels.claim(rows);
        assertChannel(50, 20);
    }

    uint256 private constant STRANGER_KEY = 0xBAD;
}
