// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract ThawReserveTest is Fixture {
    function _thaw(uint128 amount) private {
        vm.prank(gateway);
        escrow.thawReserve(amount);
    }

    function test_StartsTheClock() public {
        fundReserve(100);
        uint64 thawedAt = uint64(block.timestamp) + RESERVE_THAW;
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ReserveThawing(gateway, 60, thawedAt);
        _thaw(60);
        (uint128 amount, uint128 thawing, uint64 stored) = escrow.reserves(gateway);
        assertEq(amount, 100, "still there");
        assertEq(thawing, 60, "thawing");
        assertEq(stored, thawedAt, "at");
    }

    /// @dev What began to thaw yesterday waits as long as what is asked for today.
    function test_AskingAnewStartsAnew() public {
        fundReserve(100);
        _thaw(60);
        vm.warp(block.timestamp + RESERVE_THAW - 1);
        _thaw(61);
        (, uint128 thawing, uint64 thawedAt) = escrow.reserves(gateway);
        assertEq(thawing, 61, "thawing");
        assertEq(thawedAt, block.timestamp + RESERVE_THAW, "at");
    }

    function test_ZeroTakesTheThawBack() public {
        fundReserve(100);
        _thaw(100);
        _thaw(0);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNothingThawing.selector, gateway));
        vm.prank(gateway);
        escrow.withdrawReserve(gateway);
    }

    function test_RevertWhen_ThawingMoreThanThereIs() public {
        fundReserve(100);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowInsufficientReserve.selector, 101, 100));
        _thaw(101);
    }
}
