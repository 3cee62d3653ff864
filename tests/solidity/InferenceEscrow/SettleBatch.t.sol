// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract SettleBatchTest is Fixture {
    function _settled() private view returns (uint128 settled) {
        (, settled,,) = escrow.channels(id);
    }

    function _credited(address payee) private view returns (uint128 credited) {
        (credited,) = escrow.credits(gateway, payee);
    }

    function _reserve() private view returns (uint128 reserve) {
        (reserve,,) = escrow.reserves(gateway);
    }

    function test_MovesDebitsToPayeesAndReserve() public {
        deposit(1000);
        IInferenceEscrow.Debit[] memory debitRows = debits(600, 700);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ChannelSettled(id, 600);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.BatchSettled(gateway, 1, keccak256(abi.encode("root", 1)), 0, 1, 600, 500);
        settle(1, debitRows, credits(operator, 500));
        assertEq(_settled(), 600, "settled");
        assertEq(_credited(operator), 500, "credited");
        assertEq(_reserve(), 100, "reserve");
        assertEq(escrow.lastEpoch(gateway), 1, "epoch");
        assertEq(escrow.settlements(gateway, 1), keccak256(abi.encode("root", 1)), "root");
    }

    function test_NumbersReceiptsWithoutGaps() public {
        vm.startPrank(gateway);
        escrow.settleBatch(1, bytes32(uint256(1)), 10, noDebits(), noCredits());
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.BatchSettled(gateway, 2, bytes32(uint256(2)), 10, 5, 0, 0);
        escrow.settleBatch(2, bytes32(uint256(2)), 5, noDebits(), noCredits());
        vm.stopPrank();
        assertEq(escrow.receiptCount(gateway), 15, "receipts");
        assertEq(escrow.settlements(gateway, 1), bytes32(uint256(1)), "first root");
    }

    function test_CapsAtTheDeposit() public {
        deposit(100);
        fundReserve(50);
        settle(1, debits(130, 130), credits(operator, 120));
        assertEq(_settled(), 100, "settled");
        assertEq(_credited(operator), 120, "the reserve bears the default");
        assertEq(_reserve(), 30, "reserve");
    }

    function test_RepeatingABatchPaysNothingMore() public {
        deposit(1000);
        settle(1, debits(600, 700), credits(operator, 500));
        IInferenceEscrow.Debit[] memory debitRows = debits(600, 700);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.DebitSkipped(id, 2);
        settle(2, debitRows, credits(operator, 500));
        assertEq(_credited(operator), 500, "credited");
        assertEq(_reserve(), 100, "reserve");
    }

    function test_SkipsAClaimAboveItsVoucher() public {
        deposit(1000);
        IInferenceEscrow.Debit[] memory debitRows = debits(701, 700);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.DebitSkipped(id, 1);
        settle(1, debitRows, noCredits());
        assertEq(_settled(), 0, "settled");
    }

    function test_SkipsAVoucherOfAnotherKey() public {
        deposit(1000);
        IInferenceEscrow.Debit[] memory rows = new IInferenceEscrow.Debit[](1);
        rows[0] = debitRow(PAYER_KEY, channel, 600, 700);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.DebitSkipped(id, 3);
        settle(1, rows, noCredits());
        assertEq(_settled(), 0, "settled");
    }

    function test_SkipsAHighS() public {
        deposit(1000);
        IInferenceEscrow.Debit[] memory rows = debits(600, 700);
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        uint256 vs = uint256(rows[0].vs);
        uint256 s = order - (vs & (type(uint256).max >> 1));
        // s of 255 bits can be high but not every high s fits; the parity bit flips with it.
        rows[0].vs = bytes32((s & (type(uint256).max >> 1)) | ((vs >> 255) ^ 1) << 255);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.DebitSkipped(id, 3);
        settle(1, rows, noCredits());
    }

    function test_SkipsAnUnfundedOrForeignChannel() public {
        deposit(1000);
        IInferenceEscrow.Debit[] memory rows = debits(600, 700);
        vm.prank(STRANGER);
        escrow.settleBatch(1, 0, 0, rows, noCredits());
        assertEq(_settled(), 0, "only the channel's gateway settles it");
    }

    /// @dev I6: bad rows change nothing for the good one.
    function testFuzz_BadRowsDoNotDisturb(uint8 place, uint128 claim, bytes32 noise) public {
        deposit(1000);
        claim = uint128(bound(claim, 1, 1000));
        IInferenceEscrow.Debit[] memory rows = new IInferenceEscrow.Debit[](4);
        IInferenceEscrow.Debit memory good = debitRow(SIGNER_KEY, channel, claim, 1000);
        for (uint256 i = 0; i < 4; ++i) {
            rows[i] = good;
            if (i != place % 4) {
                rows[i].r = noise;
                rows[i] = IInferenceEscrow.Debit(payer, signer, uint64(i), claim, 1000, noise, noise);
            }
        }
        rows[place % 4] = debitRow(SIGNER_KEY, channel, claim, 1000);
        settle(1, rows, credits(operator, claim));
        assertEq(_settled(), claim, "settled");
        assertEq(_credited(operator), claim, "credited");
    }

    function test_ADuplicateRowIsStale() public {
        deposit(1000);
        IInferenceEscrow.Debit[] memory rows = new IInferenceEscrow.Debit[](2);
        rows[0] = debitRow(SIGNER_KEY, channel, 400, 400);
        rows[1] = rows[0];
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ChannelSettled(id, 400);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.DebitSkipped(id, 2);
        settle(1, rows, noCredits());
        assertEq(_reserve(), 400, "debited once");
    }

    function test_PaysCreditsInOrderWhileMoneyLasts() public {
        deposit(100);
        fundReserve(20);
        IInferenceEscrow.Credit[] memory rows = new IInferenceEscrow.Credit[](3);
        rows[0] = IInferenceEscrow.Credit(operator, 90);
        rows[1] = IInferenceEscrow.Credit(owner, 50);
        rows[2] = IInferenceEscrow.Credit(worker, 10);
        IInferenceEscrow.Debit[] memory debitRows = debits(100, 100);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.CreditShort(owner, 30, 50);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.CreditShort(worker, 0, 10);
        settle(1, debitRows, rows);
        assertEq(_credited(operator), 90, "first in full");
        assertEq(_credited(owner), 30, "second in part");
        assertEq(_reserve(), 0, "reserve");
        fundReserve(30);
        settle(2, noDebits(), rows);
        assertEq(_credited(owner), 50, "the rest later, by the same row");
        assertEq(_credited(worker), 10, "and the third");
    }

    function test_RevertWhen_EpochIsNotNext() public {
        settle(1, noDebits(), noCredits());
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowEpoch.selector, 1, 2));
        settle(1, noDebits(), noCredits());
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowEpoch.selector, 3, 2));
        settle(3, noDebits(), noCredits());
    }

    /// @dev I2, I4: never above voucher or deposit, never more credit than money.
    function testFuzz_CapsHold(uint128 amount, uint128 claim, uint128 voucher, uint128 credit, uint128 reserve) public {
        amount = uint128(bound(amount, 1, 1e24));
        reserve = uint128(bound(reserve, 1, 1e24));
        deposit(amount);
        fundReserve(reserve);
        settle(1, debits(claim, voucher), credits(operator, credit));
        uint256 expected = claim > voucher ? 0 : claim < amount ? claim : amount;
        assertEq(_settled(), expected, "settled");
        uint256 available = expected + reserve;
        assertEq(_credited(operator), credit < available ? credit : available, "credited");
        assertEq(uint256(_reserve()) + _credited(operator), available, "conserved");
    }
}
