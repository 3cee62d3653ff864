// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "../support/Fixture.sol";

contract ClaimWithReceiptTest is Fixture {
    function _claim(uint128 voucherAmount, IInferenceEscrow.Receipt memory paper) private {
        bytes memory voucher = sign(SIGNER_KEY, TypedData.hashVoucher(id, voucherAmount));
        bytes32 digest = escrow.receiptDigest(paper);
        escrow.claimWithReceipt(
            channel, voucherAmount, voucher, paper, signDigest(WORKER_KEY, digest), signDigest(GATEWAY_KEY, digest)
        );
    }

    function _reserve() private view returns (uint128 reserve) {
        (reserve,,) = escrow.reserves(gateway);
    }

    function test_MovesTheChargeToTheReserve() public {
        deposit(1000);
        IInferenceEscrow.Receipt memory paper = receipt(3, 50, 400);
        bytes memory voucher = sign(SIGNER_KEY, TypedData.hashVoucher(id, 900));
        bytes32 digest = escrow.receiptDigest(paper);
        bytes memory workerSignature = signDigest(WORKER_KEY, digest);
        bytes memory gatewaySignature = signDigest(GATEWAY_KEY, digest);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ChannelSettled(id, 400);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ReceiptClaimed(id, gateway, digest, 400, 400);
        vm.prank(STRANGER);
        escrow.claimWithReceipt(channel, 900, voucher, paper, workerSignature, gatewaySignature);
        assertEq(_reserve(), 400, "never to the unused ceiling");
    }

    /// @dev I10 and the three caps.
    function testFuzz_CappedByReceiptVoucherAndDeposit(uint128 amount, uint128 ceiling, uint128 cumulative) public {
        amount = uint128(bound(amount, 1, 1e24));
        ceiling = uint128(bound(ceiling, 1, type(uint128).max));
        cumulative = uint128(bound(cumulative, 1, type(uint128).max));
        deposit(amount);
        _claim(ceiling, receipt(1, 1, cumulative));
        uint256 expected = amount < ceiling ? amount : ceiling;
        if (cumulative < expected) expected = cumulative;
        assertEq(_reserve(), expected, "moved");
    }

    function test_RevertWhen_NothingIsLeftToClaim() public {
        deposit(1000);
        _claim(900, receipt(1, 50, 400));
        IInferenceEscrow.Receipt memory older = receipt(2, 50, 300);
        bytes memory voucher = sign(SIGNER_KEY, TypedData.hashVoucher(id, 900));
        bytes32 digest = escrow.receiptDigest(older);
        bytes memory byWorker = signDigest(WORKER_KEY, digest);
        bytes memory byGateway = signDigest(GATEWAY_KEY, digest);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNothingToClaim.selector, 300, 400));
        escrow.claimWithReceipt(channel, 900, voucher, older, byWorker, byGateway);
    }

    function test_RevertWhen_ASignatureIsOfAnother() public {
        deposit(1000);
        IInferenceEscrow.Receipt memory paper = receipt(1, 50, 400);
        bytes32 digest = escrow.receiptDigest(paper);
        bytes memory voucher = sign(SIGNER_KEY, TypedData.hashVoucher(id, 900));
        bytes memory wrongVoucher = sign(PAYER_KEY, TypedData.hashVoucher(id, 900));
        bytes memory byWorker = signDigest(WORKER_KEY, digest);
        bytes memory byGateway = signDigest(GATEWAY_KEY, digest);
        bytes4 selector = IInferenceEscrow.InferenceEscrowInvalidSigner.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, payer, signer));
        escrow.claimWithReceipt(channel, 900, wrongVoucher, paper, byWorker, byGateway);
        vm.expectRevert(abi.encodeWithSelector(selector, gateway, worker));
        escrow.claimWithReceipt(channel, 900, voucher, paper, byGateway, byGateway);
        vm.expectRevert(abi.encodeWithSelector(selector, worker, gateway));
        escrow.claimWithReceipt(channel, 900, voucher, paper, byWorker, byWorker);
    }

    function test_RevertWhen_TheReceiptIsOfAnotherChannelOrGateway() public {
        deposit(1000);
        IInferenceEscrow.Receipt memory paper = receipt(1, 50, 400);
        paper.channelId = keccak256("other");
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowChannelMismatch.selector, keccak256("other"), id)
        );
        escrow.claimWithReceipt(channel, 900, "", paper, "", "");
        paper.channelId = id;
        paper.gateway = STRANGER;
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowGatewayMismatch.selector, STRANGER, gateway)
        );
        escrow.claimWithReceipt(channel, 900, "", paper, "", "");
    }
}
