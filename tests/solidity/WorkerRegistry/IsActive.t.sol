// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "../support/Fixture.sol";

contract IsActiveTest is Fixture {
    function test_CountsStakeThatDoesNotThaw() public {
        assertTrue(!workers.isActive(worker), "unknown");
        register();
        assertTrue(workers.isActive(worker), "registered");
        fund(STRANGER, 5, address(workers));
        vm.prank(STRANGER);
        workers.addStake(worker, 5);
        vm.startPrank(operator);
        workers.thaw(worker, 5);
        assertTrue(workers.isActive(worker), "the least stake is left");
        workers.thaw(worker, 6);
        assertTrue(!workers.isActive(worker), "one unit short");
        workers.thaw(worker, 0);
        workers.deregister(worker);
        assertTrue(!workers.isActive(worker), "left");
        vm.stopPrank();
    }
}
