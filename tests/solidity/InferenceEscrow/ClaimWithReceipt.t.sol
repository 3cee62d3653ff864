// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "../support/Fixture.sol";
import {Tree} from "../support/Tree.sol";

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

    /// @dev Signs `digests` as one batch; returns the signature of the one at `index`.
    function _signBatch(uint256 key, bytes32[] memory digests, uint256 index) private view returns (bytes memory) {
        (bytes32 root, bytes32[] memory proof) = Tree.build(digests, index);
        return abi.encodePacked(sign(key, TypedData.hashReceiptBatch(root)), proof);
    }

    function _batch(IInferenceEscrow.Receipt memory paper, uint256 size, uint256 index)
        private
        view
        returns (bytes32[] memory digests)
    {
        digests = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            digests[i] = i == index ? escrow.receiptDigest(paper) : keccak256(abi.encode("another receipt", i));
        }
    }

    /// @dev Who seems to have signed, if `digest` stood where the batch has the one at `index`.
    function _signerOfBatch(bytes32 digest, bytes32[] memory digests, uint256 index, bytes memory signature)
        private
        view
        returns (address)
    {
        (, bytes32[] memory proof) = Tree.build(digests, index);
        bytes32 node = Tree.leaf(digest);
        for (uint256 i = 0; i < proof.length; ++i) {
            node = Tree.pairHash(node, proof[i]);
        }
        return signerOf(TypedData.digest(escrow.domainSeparator(), TypedData.hashReceiptBatch(node)), signature);
    }

    function testFuzz_ReceiptsSignedInBatches(uint256 size, uint256 index) public {
        size = bound(size, 2, 40);
        index = bound(index, 0, size - 1);
        deposit(1000);
        IInferenceEscrow.Receipt memory paper = receipt(1, 50, 400);
        bytes32[] memory digests = _batch(paper, size, index);
        bytes memory voucher = sign(SIGNER_KEY, TypedData.hashVoucher(id, 900));
        escrow.claimWithReceipt(
            channel,
            900,
            voucher,
            paper,
            _signBatch(WORKER_KEY, digests, index),
            signDigest(GATEWAY_KEY, escrow.receiptDigest(paper))
        );
        assertEq(_reserve(), 400, "moved");
    }

    function test_RevertWhen_ABatchDoesNotHoldTheReceipt() public {
        deposit(1000);
        IInferenceEscrow.Receipt memory paper = receipt(1, 50, 400);
        IInferenceEscrow.Receipt memory other = receipt(2, 50, 900);
        bytes32[] memory digests = _batch(paper, 7, 3);
        bytes memory voucher = sign(SIGNER_KEY, TypedData.hashVoucher(id, 900));
        bytes memory byGateway = signDigest(GATEWAY_KEY, escrow.receiptDigest(other));
        bytes memory byWorker = _signBatch(WORKER_KEY, digests, 3);
        address wrong = _signerOfBatch(escrow.receiptDigest(other), digests, 3, byWorker);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInvalidSigner.selector, wrong, worker));
        escrow.claimWithReceipt(channel, 900, voucher, other, byWorker, byGateway);
        // a proof cut inside a step
        bytes memory cut = new bytes(byWorker.length - 1);
        for (uint256 i = 0; i < cut.length; ++i) {
            cut[i] = byWorker[i];
        }
        byGateway = signDigest(GATEWAY_KEY, escrow.receiptDigest(paper));
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInvalidSigner.selector, address(0), worker)
        );
        escrow.claimWithReceipt(channel, 900, voucher, paper, cut, byGateway);
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
