// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "@market/interfaces/IModelRegistry.sol";

import {Listings} from "../support/Listings.sol";

contract TransferOwnershipTest is Listings {
    function test_TakesTwoSteps() public {
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelOwnershipOffered(MODEL, owner, STRANGER);
        vm.prank(owner);
        models.transferOwnership(MODEL, STRANGER);
        assertEq(models.models(MODEL).owner, owner, "not yet");
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelOwnershipTransferred(MODEL, owner, STRANGER);
        vm.prank(STRANGER);
        models.acceptOwnership(MODEL);
        assertEq(models.models(MODEL).owner, STRANGER, "owner");
        assertEq(models.models(MODEL).pendingOwner, address(0), "pending");
    }

    function test_RevertWhen_NotTheOwner() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNotOwner.selector, owner, STRANGER));
        vm.prank(STRANGER);
        models.transferOwnership(MODEL, STRANGER);
    }

    function test_RevertWhen_NotThePendingOwner() public {
        vm.expectRevert(
            abi.encodeWithSelector(IModelRegistry.ModelRegistryNotPendingOwner.selector, address(0), STRANGER)
        );
        vm.prank(STRANGER);
        models.acceptOwnership(MODEL);
    }
}
