// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract FundReserveTest is Fixture {
    function test_AnyoneAdds() public {
        fund(STRANGER, 40, address(escrow));
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ReserveFunded(gateway, STRANGER, 40, 40);
        vm.prank(STRANGER);
        escrow.fundReserve(gateway, 40);
        fundReserve(2);
        (uint128 amount, uint128 thawing, uint64 thawedAt) = escrow.reserves(gateway);
        assertEq(amount, 42, "reserve");
        assertEq(thawing + thawedAt, 0, "thaw");
    }

    function test_RevertWhen_Zero() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAmount.selector));
        escrow.fundReserve(gateway, 0);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAddress.selector));
        escrow.fundReserve(address(0), 1);
    }
}
