// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract WithdrawReserveTest is Fixture {
    function _thaw(uint128 amount) private {
        vm.prank(gateway);
        escrow.thawReserve(amount);
    }

    function test_PaysAfterTheThaw() public {
        fundReserve(100);
        uint64 thawedAt = uint64(block.timestamp) + RESERVE_THAW;
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ReserveThawing(gateway, 60, thawedAt);
        _thaw(60);
        vm.warp(thawedAt);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ReserveWithdrawn(gateway, STRANGER, 60, 40);
        vm.prank(gateway);
        escrow.withdrawReserve(STRANGER);
        assertBalance(STRANGER, 60);
    }

    function test_AThawingReserveStillPaysDebts() public {
        fundReserve(100);
        _thaw(100);
        settle(1, noDebits(), credits(operator, 70));
        vm.warp(block.timestamp + RESERVE_THAW);
        vm.prank(gateway);
        escrow.withdrawReserve(gateway);
        assertBalance(gateway, 30);
    }

    function test_RevertWhen_NotThawed() public {
        fundReserve(100);
        _thaw(100);
        uint64 thawedAt = uint64(block.timestamp) + RESERVE_THAW;
        vm.warp(thawedAt - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowReserveNotThawed.selector, thawedAt, thawedAt - 1)
        );
        vm.prank(gateway);
        escrow.withdrawReserve(gateway);
    }

    function test_RevertWhen_NothingThaws() public {
        fundReserve(100);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNothingThawing.selector, gateway));
        vm.prank(gateway);
        escrow.withdrawReserve(gateway);
    }
}
