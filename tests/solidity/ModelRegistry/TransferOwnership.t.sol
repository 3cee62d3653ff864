// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "@market/interfaces/IModelRegistry.sol";

import {Listings} from "../support/Listings.sol";

contract TransferOwnershipTest is Listings {
    function test_OffersAndChangesNothingYet() public {
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelOwnershipOffered(MODEL, owner, STRANGER);
        vm.prank(owner);
        models.transferOwnership(MODEL, STRANGER);
        assertEq(models.models(MODEL).owner, owner, "owner");
        assertEq(models.models(MODEL).pendingOwner, STRANGER, "pending");
    }

    function test_ZeroTakesTheOfferBack() public {
        vm.startPrank(owner);
        models.transferOwnership(MODEL, STRANGER);
        models.transferOwnership(MODEL, address(0));
        vm.stopPrank();
        assertEq(models.models(MODEL).pendingOwner, address(0), "pending");
    }

    function test_RevertWhen_NotListed() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNotListed.selector, bytes32(0)));
        models.transferOwnership(0, STRANGER);
    }

    function test_RevertWhen_NotTheOwner() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNotOwner.selector, owner, STRANGER));
        vm.prank(STRANGER);
        models.transferOwnership(MODEL, STRANGER);
    }
}
