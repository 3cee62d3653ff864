// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "../support/Fixture.sol";

contract SlashReserveTest is Fixture {
    address private constant BURN = 0x000000000000000000000000000000000000dEaD;

    function test_HalfIsBurnt() public {
        fundReserve(101);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.ReserveSlashed(gateway, STRANGER, 51, 50);
        vm.prank(address(disputes));
        assertEq(escrow.slashReserve(gateway, 51, STRANGER), 51, "slashed");
        assertBalance(STRANGER, 25);
        assertBalance(BURN, 26);
    }

    function test_NotesComeFirst() public {
        escrow.redeemCreditNote(
            gateway, operator, 80, sign(GATEWAY_KEY, TypedData.hashCreditNote(gateway, operator, 80))
        );
        fundReserve(100);
        vm.prank(address(disputes));
        assertEq(escrow.slashReserve(gateway, 100, STRANGER), 20, "slashed");
    }

    function test_AnEmptyReserveSlashesNothing() public {
        vm.prank(address(disputes));
        assertEq(escrow.slashReserve(gateway, 100, STRANGER), 0, "slashed");
    }

    function test_RevertWhen_NotTheDisputeManager() public {
        vm.expectRevert(
            abi.encodeWithSelector(
                IInferenceEscrow.InferenceEscrowNotDisputeManager.selector, address(disputes), STRANGER
            )
        );
        vm.prank(STRANGER);
        escrow.slashReserve(gateway, 1, STRANGER);
    }
}
