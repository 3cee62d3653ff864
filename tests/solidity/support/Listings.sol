// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";

/// @notice A market with one listed model.
abstract contract Listings is Fixture {
    bytes32 internal constant MODEL = keccak256("manifest");

    function setUp() public virtual override {
        super.setUp();
        vm.prank(owner);
        models.list(MODEL, "mini-lm", 10, 1000, 100_000, 1, "https://models/mini-lm");
    }
}
