// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "./Fixture.sol";

/// @notice A registered worker, and the session key that it can name.
abstract contract Sessions is Fixture {
    address internal constant KEY = address(0x5E55);
    uint64 internal expiry;

    function setUp() public override {
        super.setUp();
        register();
        expiry = uint64(block.timestamp + 1 days);
    }

    function sessionSignature(uint256 key, uint64 until) internal view returns (bytes memory) {
        return sign(key, TypedData.hashWorkerSession(worker, KEY, until));
    }

    function authorize(uint64 until) internal {
        workers.authorizeSession(worker, KEY, until, sessionSignature(WORKER_KEY, until));
    }
}
