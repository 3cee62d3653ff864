// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract EscrowConstructorTest is Fixture {
    function test_RevertWhen_TokenIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAddress.selector));
        vm.deployCode("InferenceEscrow.sol", abi.encode(address(0), EXIT_DELAY, RESERVE_THAW));
    }

    function test_KeepsItsTerms() public view {
        assertEq(escrow.token(), address(token), "token");
        assertEq(escrow.exitDelay(), EXIT_DELAY, "exit delay");
        assertEq(escrow.reserveThaw(), RESERVE_THAW, "thaw");
    }
}
