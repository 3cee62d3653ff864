// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "@market/interfaces/IModelRegistry.sol";

import {Listings} from "../support/Listings.sol";

contract ListTest is Listings {
    function _list(bytes32 modelId, string memory name) private {
        models.list(modelId, name, 10, 1000, 100_000, 1, "uri");
    }

    function test_ListsUnderAName() public {
        bytes32 modelId = keccak256("other");
        vm.expectEmit(address(models));
        emit IModelRegistry.ModelListed(modelId, owner, "other.v1", 1, 2, 3, 3, "ipfs://x");
        vm.prank(owner);
        models.list(modelId, "other.v1", 1, 2, 3, 3, "ipfs://x");
        IModelRegistry.Model memory model = models.models(modelId);
        assertEq(model.owner, owner, "owner");
        assertEq(model.minPrice, 1, "min");
        assertEq(model.maxPrice, 2, "max");
        assertEq(model.royaltyPpm, 3, "royalty");
        assertEq(model.unit, 3, "unit");
        assertEq(model.listedAt, block.timestamp, "at");
        assertTrue(model.active, "active");
        assertEq(keccak256(bytes(model.name)), keccak256("other.v1"), "name");
        assertEq(keccak256(bytes(model.uri)), keccak256("ipfs://x"), "uri");
        assertEq(models.modelByName("other.v1"), modelId, "by name");
    }

    /// @dev The rule spelled a second time, letter by letter.
    function testFuzz_NameRule(string memory name) public {
        bytes memory letters = bytes(name);
        bool valid = letters.length > 0 && letters.length < 64;
        for (uint256 i = 0; i < letters.length && valid; ++i) {
            uint8 c = uint8(letters[i]);
            bool plain = (c > 96 && c < 123) || (c > 47 && c < 58);
            valid = plain || (i > 0 && (c == 45 || c == 46 || c == 95));
        }
        vm.assume(keccak256(letters) != keccak256("mini-lm"));
        if (!valid) vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryInvalidName.selector, name));
        _list(keccak256("m"), name);
    }

    function test_NamesAtTheEdge() public {
        _list(keccak256("a"), "a");
        _list(keccak256("b"), "0.9_z-");
        _list(keccak256("c"), "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0");
    }

    function test_RevertWhen_TheNameIsInvalid() public {
        string[7] memory bad =
            ["", "-a", ".a", "_a", "A", "a b", "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz01"];
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryInvalidName.selector, bad[i]));
            _list(keccak256("d"), bad[i]);
        }
    }

    function test_RevertWhen_TheNameIsTaken() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryNameTaken.selector, "mini-lm", MODEL));
        _list(keccak256("other"), "mini-lm");
    }

    function test_RevertWhen_TheModelIsListed() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryListed.selector, MODEL, owner));
        _list(MODEL, "copy");
    }

    function test_RevertWhen_TheIdIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryZeroModelId.selector));
        _list(0, "zero");
    }

    function test_RevertWhen_TermsAreImpossible() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryPriceBounds.selector, 2, 1));
        models.list(keccak256("x"), "x", 2, 1, 0, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryRoyalty.selector, 500_001, 500_000));
        models.list(keccak256("x"), "x", 1, 1, 500_001, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ModelRegistryUnit.selector, 7, 6));
        models.list(keccak256("x"), "x", 1, 1, 0, 7, "");
    }
}
