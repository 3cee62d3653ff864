// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "@market/interfaces/IModelRegistry.sol";

import {Listings} from "../support/Listings.sol";

contract SupersedeTest is Listings {
    bytes32 private constant NEXT = keccak256("manifest 2");

    function test_TheNameMovesOn() public {
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelListed(NEXT, owner, "mini-lm", 10, 1000, 100_000, 1, "v2");
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelSuperseded(MODEL, NEXT, "mini-lm");
        vm.prank(owner);
        models.supersede(MODEL, NEXT, "v2");
        assertEq(models.modelByName("mini-lm"), NEXT, "newest");
        assertEq(models.models(MODEL).supersededBy, NEXT, "old points on");
        assertTrue(models.models(MODEL).active, "old stays");
        assertEq(models.models(NEXT).royaltyPpm, 100_000, "terms carry over");
    }

    function test_RevertWhen_NotTheNewest() public {
        vm.startPrank(owner);
        models.supersede(MODEL, NEXT, "v2");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistrySuperseded.selector, MODEL, NEXT));
        models.supersede(MODEL, keccak256("manifest 3"), "v3");
        vm.stopPrank();
    }

    function test_RevertWhen_TheNewIdIsListedOrZero() public {
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryListed.selector, MODEL, owner));
        models.supersede(MODEL, MODEL, "v2");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryZeroModelId.selector));
        models.supersede(MODEL, 0, "v2");
        vm.stopPrank();
    }

    function test_RevertWhen_NotTheOwner() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNotOwner.selector, owner, address(this)));
        models.supersede(MODEL, NEXT, "v2");
    }
}
