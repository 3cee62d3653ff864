// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";
import {TestUSD} from "@market/mocks/TestUSD.sol";

import {EscrowBooks} from "./EscrowBooks.sol";
import {Quick} from "./Quick.sol";

/// @notice Drives the escrow as payers, gateways, payees and strangers would, valid and invalid rows mixed, and keeps its
/// own account of what must be true. Every call it makes must succeed.
contract EscrowHandler is EscrowBooks {
    address private constant RESERVE_BENEFICIARY = address(0xBE);

    uint128[CHANNELS] private _exitAmount;
    uint128[PAYEES][GATEWAYS] private _owed;

    constructor(IInferenceEscrow escrow_, TestUSD token_) EscrowBooks(escrow_, token_) {}

    // ---------------------------------------------------------------- actions

    function deposit(uint256 index, uint128 amount) external {
        index %= CHANNELS;
        amount = uint128(bound(amount, 1, 1e12));
        (,, uint128 exiting,) = escrow.channels(id[index]);
        _fund(_channels[index].payer, amount);
        vm.prank(_channels[index].payer);
        escrow.deposit(_channels[index], amount);
        (,, uint128 exitingAfter,) = escrow.channels(id[index]);
        assertLe(exitingAfter, exiting, "I8: a deposit made after an exit is not exiting");
    }

    function initiateExit(uint256 index, uint128 amount) external {
        index %= CHANNELS;
        (uint128 deposited, uint128 settled,, uint64 exitAt) = escrow.channels(id[index]);
        if (exitAt != 0 || deposited == settled) return;
        _exitAmount[index] = uint128(bound(amount, 1, deposited - settled));
        vm.prank(_channels[index].payer);
        escrow.initiateExit(_channels[index], _exitAmount[index]);
    }

    function cancelExit(uint256 index) external {
        index %= CHANNELS;
        (,,, uint64 exitAt) = escrow.channels(id[index]);
        if (exitAt == 0) return;
        vm.prank(_channels[index].payer);
        escrow.cancelExit(_channels[index]);
    }

    function finalizeExit(uint256 index) external {
        index %= CHANNELS;
        (uint128 deposited, uint128 settled, uint128 exitAmount, uint64 exitAt) = escrow.channels(id[index]);
        if (exitAt == 0) return;
        if (block.timestamp < exitAt) vm.warp(exitAt);
        assertLe(exitAmount, _exitAmount[index], "I7: an exit never grows");
        uint256 before = token.balanceOf(_channels[index].payer);
        uint128 expected = exitAmount < deposited - settled ? exitAmount : deposited - settled;
        escrow.finalizeExit(_channels[index]);
        assertEq(
            token.balanceOf(_channels[index].payer) - before,
            expected,
            "I7: the payer gets what it announced, or all that is unclaimed"
        );
    }

    function refund(uint256 index, uint128 amount) external {
        index %= CHANNELS;
        (uint128 deposited, uint128 settled,,) = escrow.channels(id[index]);
        amount = uint128(bound(amount, 0, deposited - settled));
        uint64 nonce = escrow.refundNonce(id[index]);
        bytes memory consent = _sign(gatewayKey(index / 2), TypedData.hashRefund(id[index], nonce, amount));
        escrow.refund(_channels[index], nonce, amount, consent);
    }

    /// @dev Rows of all channels, also the other gateway's; `flaws` decides which are broken and how.
    function settle(uint256 who, uint128[4] memory claims, uint128[3] memory payments, uint256 flaws, uint32 count)
        external
    {
        who %= GATEWAYS;
        uint256 expected = 0;
        IInferenceEscrow.Debit[] memory debits = new IInferenceEscrow.Debit[](CHANNELS + 1);
        for (uint256 i = 0; i < CHANNELS; ++i) {
            uint256 added;
            (debits[i], added) = _row(who, i, uint128(bound(claims[i], 0, 2e12)), (flaws >> (2 * i)) % 4);
            expected += added;
        }
        debits[CHANNELS] = debits[flaws % CHANNELS];
        IInferenceEscrow.Credit[] memory credits = new IInferenceEscrow.Credit[](PAYEES);
        uint256 before = 0;
        for (uint256 i = 0; i < PAYEES; ++i) {
            _owed[who][i] += uint128(bound(payments[i], 0, 1e12));
            credits[i] = IInferenceEscrow.Credit(payee[i], _owed[who][i]);
            before += _creditOf(who, i);
        }
        (uint128 reserve,,) = escrow.reserves(gateway[who]);
        bytes32 root = keccak256(abi.encode(who, roots[who].length, flaws));
        roots[who].push(root);
        vm.prank(gateway[who]);
        escrow.settleBatch(uint64(roots[who].length), root, count, debits, credits);
        receipts[who] += count;
        _checkConserved(who, before, expected, reserve);
    }

    function claimWithReceipt(uint256 index, uint128 ceiling, uint128 cumulative) external {
        index %= CHANNELS;
        ceiling = uint128(bound(ceiling, 1, 2e12));
        (uint128 deposited,,,) = escrow.channels(id[index]);
        uint128 target = cumulative < ceiling ? cumulative : ceiling;
        if (target > deposited) target = deposited;
        if (target <= expectedSettled[index]) return;
        IInferenceEscrow.Receipt memory receipt;
        receipt.channelId = id[index];
        receipt.gateway = _channels[index].gateway;
        receipt.worker = worker;
        receipt.cumulative = cumulative;
        _raise(index, ceiling);
        bytes memory voucher = _sign(signerKey(index), TypedData.hashVoucher(receipt.channelId, ceiling));
        bytes memory byWorker = _signDigest(WORKER_KEY, escrow.receiptDigest(receipt));
        bytes memory byGateway = _signDigest(gatewayKey(index / 2), escrow.receiptDigest(receipt));
        escrow.claimWithReceipt(_channels[index], ceiling, voucher, receipt, byWorker, byGateway);
        expectedSettled[index] = target;
    }

    function redeemCreditNote(uint256 who, uint256 to, uint128 more) external {
        who %= GATEWAYS;
        to %= PAYEES;
        _owed[who][to] += uint128(bound(more, 0, 1e12));
        (, uint128 owed) = escrow.notes(gateway[who], payee[to]);
        (uint128 cumulative,) = escrow.notes(gateway[who], payee[to]);
        uint128 total = _owed[who][to] > cumulative ? _owed[who][to] : cumulative;
        if (total <= _creditOf(who, to) && owed == 0) return;
        bytes memory note = _sign(gatewayKey(who), TypedData.hashCreditNote(gateway[who], payee[to], _owed[who][to]));
        escrow.redeemCreditNote(gateway[who], payee[to], _owed[who][to], note);
        highestCredited[who][to] = _creditOf(who, to);
    }

    function withdraw(uint256 who, uint256 to, uint128 amount) external {
        who %= GATEWAYS;
        to %= PAYEES;
        (uint128 credited, uint128 withdrawn) = escrow.credits(gateway[who], payee[to]);
        if (credited == withdrawn) return;
        amount = uint128(bound(amount, 1, credited - withdrawn));
        vm.prank(payee[to]);
        escrow.withdraw(gateway[who], payee[to], amount);
    }

    function fundReserve(uint256 who, uint128 amount) external {
        who %= GATEWAYS;
        amount = uint128(bound(amount, 1, 1e12));
        _fund(gateway[who], amount);
        vm.prank(gateway[who]);
        escrow.fundReserve(gateway[who], amount);
    }

    function thawReserve(uint256 who, uint128 amount) external {
        who %= GATEWAYS;
        (uint128 reserve,,) = escrow.reserves(gateway[who]);
        vm.prank(gateway[who]);
        escrow.thawReserve(uint128(bound(amount, 0, reserve)));
    }

    function withdrawReserve(uint256 who) external {
        who %= GATEWAYS;
        (,, uint64 thawedAt) = escrow.reserves(gateway[who]);
        if (thawedAt == 0) return;
        if (block.timestamp < thawedAt) vm.warp(thawedAt);
        vm.prank(gateway[who]);
        escrow.withdrawReserve(gateway[who]);
    }

    function slashReserve(uint256 who, uint128 amount) external {
        vm.prank(escrow.disputeManager());
        escrow.slashReserve(gateway[who % GATEWAYS], uint128(bound(amount, 0, 1e9)), RESERVE_BENEFICIARY);
    }

    // ----------------------------------------------------------------- private

    /// @dev Flaw 1: signed by another key, 2: claim above the voucher, 3: stale copy of nothing. Returns what a sound row
    /// adds to `settled`, and updates the expectation.
    function _row(uint256 who, uint256 index, uint128 claim, uint256 flaw)
        private
        returns (IInferenceEscrow.Debit memory row, uint256 added)
    {
        IInferenceEscrow.Channel memory c = _channels[index];
        uint128 voucher = flaw == 2 ? claim / 2 : claim;
        bytes32 digest = TypedData.digest(domain, TypedData.hashVoucher(id[index], voucher));
        (bytes32 r, bytes32 vs) = Quick.signCompact(flaw == 1 ? WORKER_KEY : signerKey(index), digest);
        row = IInferenceEscrow.Debit(c.payer, c.signer, c.salt, flaw == 3 ? 0 : claim, voucher, r, vs);
        bool sound = (flaw == 0 || (flaw == 2 && claim == 0)) && index / 2 == who;
        if (flaw != 1) _raise(index, voucher);
        if (!sound) return (row, 0);
        (uint128 deposited,,,) = escrow.channels(id[index]);
        uint128 target = claim < deposited ? claim : deposited;
        if (target <= expectedSettled[index]) return (row, 0);
        added = target - expectedSettled[index];
        expectedSettled[index] = target;
    }

    function _checkConserved(uint256 who, uint256 before, uint256 debited, uint128 reserve) private {
        uint256 afterwards = 0;
        for (uint256 i = 0; i < PAYEES; ++i) {
            uint128 credited = _creditOf(who, i);
            assertLe(highestCredited[who][i], credited, "I3: credits never fall");
            assertLe(
                credited, _owed[who][i] > highestCredited[who][i] ? _owed[who][i] : highestCredited[who][i], "owed"
            );
            highestCredited[who][i] = credited;
            afterwards += credited;
        }
        assertLe(afterwards - before, debited + reserve, "I4: credit at most debit and reserve");
        (uint128 left,,) = escrow.reserves(gateway[who]);
        assertEq(uint256(left) + afterwards - before, debited + reserve, "I4: to the unit");
    }

    function _creditOf(uint256 who, uint256 to) private view returns (uint128 credited) {
        (credited,) = escrow.credits(gateway[who], payee[to]);
    }

    function _raise(uint256 index, uint128 ceiling) private {
        if (ceiling > signedCeiling[index]) signedCeiling[index] = ceiling;
    }

    function _fund(address account, uint256 amount) private {
        token.mint(account, amount);
        vm.prank(account);
        token.approve(address(escrow), amount);
    }

    function _sign(uint256 key, bytes32 structHash) private view returns (bytes memory) {
        return _signDigest(key, TypedData.digest(domain, structHash));
    }

    function _signDigest(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = Quick.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}
