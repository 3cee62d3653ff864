// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Fixture} from "../support/Fixture.sol";

contract DeregisterTest is Fixture {
    function test_DeregisteringThawsAll() public {
        register();
        uint64 thawedAt = uint64(block.timestamp) + THAW_PERIOD;
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerDeregistered(worker, MIN_STAKE, thawedAt);
        vm.prank(operator);
        workers.deregister(worker);
        assertTrue(!workers.isActive(worker), "inactive");
        vm.warp(thawedAt);
        vm.prank(operator);
        workers.withdrawStake(worker);
        assertBalance(operator, MIN_STAKE);
    }

    function test_RevertWhen_DeregisteredTwice() public {
        register();
        vm.startPrank(operator);
        workers.deregister(worker);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotRegistered.selector, worker));
        workers.deregister(worker);
        vm.stopPrank();
    }

    function test_RevertWhen_NotTheOperator() public {
        register();
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotOperator.selector, operator, worker));
        vm.prank(worker);
        workers.deregister(worker);
    }
}
