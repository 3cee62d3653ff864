// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "@market/interfaces/IModelRegistry.sol";

import {Listings} from "../support/Listings.sol";

contract UpdateTest is Listings {
    function test_ChangesTheTerms() public {
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelUpdated(MODEL, 5, 6, 7, "new");
        vm.prank(owner);
        models.update(MODEL, 5, 6, 7, "new");
        IModelRegistry.Model memory model = models.models(MODEL);
        assertEq(model.minPrice, 5, "min");
        assertEq(model.maxPrice, 6, "max");
        assertEq(model.royaltyPpm, 7, "royalty");
        assertEq(keccak256(bytes(model.uri)), keccak256("new"), "uri");
    }

    function test_RevertWhen_NotTheOwner() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNotOwner.selector, owner, STRANGER));
        vm.prank(STRANGER);
        models.update(MODEL, 5, 6, 7, "new");
    }

    function test_RevertWhen_NotListed() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNotListed.selector, bytes32(0)));
        models.update(0, 5, 6, 7, "new");
    }

    function test_RevertWhen_TermsAreImpossible() public {
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryPriceBounds.selector, 6, 5));
        models.update(MODEL, 6, 5, 7, "");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryRoyalty.selector, 500_001, 500_000));
        models.update(MODEL, 5, 6, 500_001, "");
        vm.stopPrank();
    }
}
