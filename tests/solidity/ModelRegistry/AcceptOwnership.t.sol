// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "@market/interfaces/IModelRegistry.sol";

import {Listings} from "../support/Listings.sol";

contract AcceptOwnershipTest is Listings {
    function test_TheNewOwnerAccepts() public {
        vm.prank(owner);
        models.transferOwnership(MODEL, STRANGER);
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelOwnershipTransferred(MODEL, owner, STRANGER);
        vm.prank(STRANGER);
        models.acceptOwnership(MODEL);
        assertEq(models.models(MODEL).owner, STRANGER, "owner");
        assertEq(models.models(MODEL).pendingOwner, address(0), "pending");
    }

    function test_RevertWhen_NothingIsOffered() public {
        vm.expectRevert(
            abi.encodeWithSelector(IModelRegistry.ModelRegistryNotPendingOwner.selector, address(0), STRANGER)
        );
        vm.prank(STRANGER);
        models.acceptOwnership(MODEL);
    }

    function test_RevertWhen_OfferedToAnother() public {
        vm.prank(owner);
        models.transferOwnership(MODEL, operator);
        vm.expectRevert(
            abi.encodeWithSelector(IModelRegistry.ModelRegistryNotPendingOwner.selector, operator, STRANGER)
        );
        vm.prank(STRANGER);
        models.acceptOwnership(MODEL);
    }
}
