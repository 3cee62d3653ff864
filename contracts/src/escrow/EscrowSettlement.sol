// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";
import {GatewayState, Pair, gatewayState} from "../libraries/Packing.sol";
import {TypedData} from "../libraries/TypedData.sol";
import {VoucherHasher} from "../libraries/VoucherHasher.sol";
import {EscrowState} from "./EscrowState.sol";

/// @title EscrowSettlement
/// @notice The part of {InferenceEscrow} that moves `settled` and `credited`: batches, and papers of a gateway that is gone.
/// @dev Calls nothing but the ecrecover precompile, so it needs no reentrancy lock.
abstract contract EscrowSettlement is EscrowState {
    using SafeCast for uint256;
    using VoucherHasher for VoucherHasher.Scratch;

    uint8 private constant ABOVE_VOUCHER = 1;
    uint8 private constant NOTHING_TO_SETTLE = 2;
    uint8 private constant WRONG_SIGNER = 3;

    /// @inheritdoc IInferenceEscrow
    function settleBatch(
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        Debit[] calldata debits,
        Credit[] calldata payeeCredits
    ) external {
        _settle(msg.sender, epoch, receiptsRoot, count, debits, payeeCredits);
    }

    /// @inheritdoc IInferenceEscrow
    function settleBatchFor(
        address gateway,
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        Debit[] calldata debits,
        Credit[] calldata payeeCredits,
        bytes calldata signature
    ) external {
        _checkSigner(
            TypedData.hashSettleBatch(gateway, epoch, receiptsRoot, count, debits, payeeCredits), signature, gateway
        );
        _settle(gateway, epoch, receiptsRoot, count, debits, payeeCredits);
    }

    /// @inheritdoc IInferenceEscrow
    function claimWithReceipt(
        Channel calldata channel,
        uint128 voucherAmount,
        bytes calldata voucherSignature,
        Receipt calldata receipt,
        bytes calldata workerSignature,
        bytes calldata gatewaySignature
    ) external {
        bytes32 id = channelId(channel);
        require(receipt.channelId == id, InferenceEscrowChannelMismatch(receipt.channelId, id));
        require(receipt.gateway == channel.gateway, InferenceEscrowGatewayMismatch(receipt.gateway, channel.gateway));
        _checkSigner(TypedData.hashVoucher(id, voucherAmount), voucherSignature, channel.signer);
        bytes32 digest = _hashTypedDataV4(TypedData.hashReceipt(receipt));
        _checkReceiptSigner(digest, workerSignature, receipt.worker);
        _checkReceiptSigner(digest, gatewaySignature, receipt.gateway);

        uint256 ceiling = Math.min(receipt.cumulative, voucherAmount);
        _claim(id, channel.gateway, ceiling, digest);
    }

    /// @inheritdoc IInferenceEscrow
    function redeemCreditNote(address gateway, address payee, uint128 cumulativeAmount, bytes calldata signature)
        external
    {
        Note memory note = _notes[gateway][payee];
        if (cumulativeAmount > note.cumulative) {
            _checkSigner(TypedData.hashCreditNote(gateway, payee, cumulativeAmount), signature, gateway);
            note.cumulative = cumulativeAmount;
        }
        Pair total = _payees[gateway][payee];
        uint128 due = Math.saturatingSub(note.cumulative, total.first()).toUint128();
        require(due > 0 || note.owed > 0, InferenceEscrowNothingToRedeem(note.cumulative, total.first()));

        GatewayState state = _gateways[gateway];
        uint128 paid = due < state.reserve() ? due : state.reserve();
        arrears[gateway] = arrears[gateway] + (due - paid) - note.owed;
        _notes[gateway][payee] = Note(note.cumulative, due - paid);
        _payees[gateway][payee] = total.withFirst(total.first() + paid);
        _gateways[gateway] = state.withReserve(state.reserve() - paid);
        emit NoteRedeemed(gateway, payee, paid, total.first() + paid, due - paid, state.reserve() - paid);
    }

    function _claim(bytes32 id, address gateway, uint256 ceiling, bytes32 digest) private {
        Pair balance = _channels[id];
        uint128 target = Math.min(ceiling, balance.first()).toUint128();
        require(target > balance.second(), InferenceEscrowNothingToClaim(target, balance.second()));
        uint128 amount = target - balance.second();
        uint128 reserve = _gateways[gateway].reserve() + amount;
        _channels[id] = balance.withSecond(target);
        _gateways[gateway] = _gateways[gateway].withReserve(reserve);
        emit ChannelSettled(id, target);
        emit ReceiptClaimed(id, gateway, digest, amount, reserve);
    }

    function _settle(
        address gateway,
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        Debit[] calldata debits,
        Credit[] calldata payeeCredits
    ) private {
        GatewayState state = _gateways[gateway];
        require(epoch == state.lastEpoch() + 1, InferenceEscrowEpoch(epoch, state.lastEpoch() + 1));
        uint256 debited = _debit(gateway, debits);
        uint256 credited = _credit(gateway, payeeCredits, debited, state.reserve());
        // Not by `using`: slither cannot read that call of this expression, and would leave the whole function out.
        uint128 reserve = SafeCast.toUint128(state.reserve() + debited - credited);
        _gateways[gateway] = gatewayState(reserve, epoch, state.receiptCount() + count);
        _roots[gateway][epoch] = receiptsRoot;
        emit BatchSettled(gateway, epoch, receiptsRoot, state.receiptCount(), count, debited, credited);
    }

    function _debit(address gateway, Debit[] calldata debits) private returns (uint256 debited) {
        VoucherHasher.Scratch scratch = VoucherHasher.make(_domainSeparatorV4(), gateway);
        for (uint256 i = 0; i < debits.length; ++i) {
            Debit calldata row = debits[i];
            address signer = row.signer;
            bytes32 id = scratch.channelId(row.payer, signer, row.salt);
            Pair balance = _channels[id];
            uint128 target = row.claimTotal;
            uint128 voucherAmount = row.voucherAmount;
            if (target > voucherAmount) {
                emit DebitSkipped(id, ABOVE_VOUCHER);
                continue;
            }
            if (target > balance.first()) target = balance.first();
            if (target <= balance.second()) {
                emit DebitSkipped(id, NOTHING_TO_SETTLE);
                continue;
            }
            (address recovered,,) = ECDSA.tryRecover(scratch.voucherDigest(id, voucherAmount), row.r, row.vs);
            // A failed recovery gives zero; a channel whose signer is zero cannot be funded.
            if (recovered != signer) {
                emit DebitSkipped(id, WRONG_SIGNER);
                continue;
            }
            unchecked {
                // Above `second`, and at most 2^128 a row.
                debited += target - balance.second();
            }
            _channels[id] = balance.withSecond(target);
            emit ChannelSettled(id, target);
        }
    }

    function _credit(address gateway, Credit[] calldata payeeCredits, uint256 debited, uint128 reserve)
        private
        returns (uint256 credited)
    {
        mapping(address => Pair) storage payees = _payees[gateway];
        uint256 available = debited;
        for (uint256 i = 0; i < payeeCredits.length; ++i) {
            Credit calldata row = payeeCredits[i];
            address payee = row.payee;
            uint256 cumulative = row.cumulative;
            Pair total = payees[payee];
            if (cumulative <= total.first()) continue;
            if (cumulative - total.first() > available - credited) {
                // The reserve is drawn whole at the first row that needs it; most batches never read its arrears.
                available += _freeReserve(gateway, reserve);
                reserve = 0;
                if (cumulative - total.first() > available - credited) {
                    uint256 reached = total.first() + (available - credited);
                    emit CreditShort(payee, uint128(reached), uint128(cumulative));
                    cumulative = reached;
                }
            }
            unchecked {
                credited += cumulative - total.first();
            }
            payees[payee] = total.withFirst(uint128(cumulative));
        }
    }
}
