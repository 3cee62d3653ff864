// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract WithdrawManyTest is Fixture {
    function test_CollectsFromEachGateway() public {
        deposit(100);
        settle(1, debits(100, 100), credits(operator, 90));
        fund(STRANGER, 50, address(escrow));
        vm.startPrank(STRANGER);
        escrow.fundReserve(STRANGER, 50);
        escrow.settleBatch(1, 0, 0, noDebits(), credits(operator, 7));
        vm.stopPrank();
        address[] memory gateways = new address[](4);
        (gateways[0], gateways[1], gateways[2], gateways[3]) = (gateway, address(1), STRANGER, gateway);
        vm.prank(operator);
        escrow.withdrawMany(gateways, operator);
        assertBalance(operator, 97);
    }

    function test_RevertWhen_ThereIsNothing() public {
        address[] memory gateways = new address[](1);
        gateways[0] = gateway;
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAmount.selector));
        vm.prank(operator);
        escrow.withdrawMany(gateways, operator);
    }
}
