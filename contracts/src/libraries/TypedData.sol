// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";

/// @title TypedData
/// @notice EIP-712 type hashes and struct hashes of the market, in one place for every contract and every test.
/// @dev A digest is `digest(domainSeparator, structHash)`. `OFFER` and the `KEY_…` hashes are checked off chain only.
library TypedData {
    uint256 private constant _SIGNATURE_BYTES = 65;

    bytes32 internal constant CHANNEL = keccak256("Channel(address payer,address signer,address gateway,uint64 salt)");
    bytes32 internal constant VOUCHER = keccak256("Voucher(bytes32 channelId,uint128 cumulativeAmount)");
    bytes32 internal constant RECEIPT = keccak256(
        "Receipt(bytes32 requestId,bytes32 channelId,address payer,address gateway,uint64 seq,address worker,bytes32 modelId,bytes32 inputHash,bytes32 outputHash,uint128 price,uint128 workerAmount,uint128 ownerAmount,uint128 cumulative,uint64 servedAt)"
    );
    bytes32 internal constant RECEIPT_BATCH = keccak256("ReceiptBatch(bytes32 root)");
    bytes32 internal constant CREDIT_NOTE =
        keccak256("CreditNote(address gateway,address payee,uint128 cumulativeAmount)");
    bytes32 internal constant REFUND = keccak256("Refund(bytes32 channelId,uint64 nonce,uint128 amount)");
    bytes32 internal constant WORKER_SESSION =
        keccak256("WorkerSession(address worker,address sessionKey,uint64 expiry)");
    bytes32 internal constant WORKER_CONSENT =
        keccak256("WorkerConsent(address operator,address worker,uint64 deadline)");
    bytes32 internal constant SETTLE_BATCH = keccak256(
        "SettleBatch(address gateway,uint64 epoch,bytes32 receiptsRoot,uint32 count,bytes32 debitsHash,bytes32 creditsHash)"
    );
    bytes32 internal constant OFFER = keccak256(
        "Offer(address worker,bytes32 modelId,address gateway,uint128 unitPrice,uint32 maxFeePpm,uint64 expiresAt)"
    );
    bytes32 internal constant KEY_GRANT = keccak256(
        "KeyGrant(bytes32 channelId,bytes32 keyHash,uint128 spendingLimit,uint64 expiresAt,bytes32 termsHash)"
    );
    bytes32 internal constant KEY_REVOCATION = keccak256("KeyRevocation(bytes32 channelId,bytes32 keyHash)");
    bytes32 internal constant KEY_LISTING = keccak256("KeyListing(bytes32 channelId,uint64 issuedAt)");
    bytes32 internal constant CHANNEL_ACCESS = keccak256("ChannelAccess(bytes32 channelId)");

    function digest(bytes32 domainSeparator, bytes32 structHash) internal pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domainSeparator, structHash);
    }

    function hashChannel(address payer, address signer, address gateway, uint64 salt) internal pure returns (bytes32) {
        return keccak256(abi.encode(CHANNEL, payer, signer, gateway, salt));
    }

    function hashVoucher(bytes32 channelId, uint128 cumulativeAmount) internal pure returns (bytes32) {
        return keccak256(abi.encode(VOUCHER, channelId, cumulativeAmount));
    }

    function hashReceipt(IInferenceEscrow.Receipt calldata receipt) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT, receipt));
    }

    function hashReceiptBatch(bytes32 root) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_BATCH, root));
    }

    function hashCreditNote(address gateway, address payee, uint128 cumulativeAmount) internal pure returns (bytes32) {
        return keccak256(abi.encode(CREDIT_NOTE, gateway, payee, cumulativeAmount));
    }

    function hashRefund(bytes32 channelId, uint64 nonce, uint128 amount) internal pure returns (bytes32) {
        return keccak256(abi.encode(REFUND, channelId, nonce, amount));
    }

    function hashWorkerSession(address worker, address sessionKey, uint64 expiry) internal pure returns (bytes32) {
        return keccak256(abi.encode(WORKER_SESSION, worker, sessionKey, expiry));
    }

    function hashWorkerConsent(address operator, address worker, uint64 deadline) internal pure returns (bytes32) {
        return keccak256(abi.encode(WORKER_CONSENT, operator, worker, deadline));
    }

    /// @dev Rows of static structs lie in calldata exactly as their concatenated `abi.encode`, so one slice is hashed.
    function hashSettleBatch(
        address gateway,
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        IInferenceEscrow.Debit[] calldata debits,
        IInferenceEscrow.Credit[] calldata credits
    ) internal pure returns (bytes32) {
        bytes calldata debitRows;
        bytes calldata creditRows;
        assembly ("memory-safe") {
            debitRows.offset := debits.offset
            debitRows.length := mul(debits.length, 224)
            creditRows.offset := credits.offset
            creditRows.length := mul(credits.length, 64)
        }
        return keccak256(
            abi.encode(SETTLE_BATCH, gateway, epoch, receiptsRoot, count, keccak256(debitRows), keccak256(creditRows))
        );
    }

    /// @notice Signer of a digest, or zero if the signature is malformed or malleable.
    function recover(bytes32 hash, bytes calldata signature) internal pure returns (address signer) {
        (signer,,) = ECDSA.tryRecoverCalldata(hash, signature);
    }

    /// @notice Signer of a receipt's digest, or zero. 65 bytes sign it alone; more sign a `ReceiptBatch`, the root of a
    /// tree of such digests, and what follows the 65 bytes is the proof that this one is among them, 32 bytes a step.
    /// @dev Leaves are hashed twice, so that no inner node can be passed off as a receipt.
    function recoverReceipt(bytes32 domainSeparator, bytes32 hash, bytes calldata signature)
        internal
        pure
        returns (address signer)
    {
        if (signature.length <= _SIGNATURE_BYTES) return recover(hash, signature);
        if ((signature.length - _SIGNATURE_BYTES) % 32 != 0) return address(0);
        bytes32 node = keccak256(abi.encode(keccak256(abi.encode(hash))));
        for (uint256 at = _SIGNATURE_BYTES; at < signature.length; at += 32) {
            node = Hashes.commutativeKeccak256(node, bytes32(signature[at:at + 32]));
        }
        return recover(digest(domainSeparator, hashReceiptBatch(node)), signature[:_SIGNATURE_BYTES]);
    }
}
