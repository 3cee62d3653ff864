// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "@market/interfaces/IModelRegistry.sol";

import {Listings} from "../support/Listings.sol";

contract SetActiveTest is Listings {
    function test_DelistsAndRelists() public {
        vm.startPrank(owner);
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelActivity(MODEL, false);
        models.setActive(MODEL, false);
        assertTrue(!models.models(MODEL).active, "delisted");
        models.setActive(MODEL, true);
        assertTrue(models.models(MODEL).active, "relisted");
        vm.stopPrank();
    }

    function test_RevertWhen_NotTheOwner() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNotOwner.selector, owner, address(this)));
        models.setActive(MODEL, false);
    }

    function test_RevertWhen_NotListed() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNotListed.selector, bytes32(0)));
        models.setActive(0, false);
    }
}
