// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Fixture} from "../support/Fixture.sol";

contract SlashTest is Fixture {
    address private constant BURN = 0x000000000000000000000000000000000000dEaD;

    function _slash(uint128 amount) private returns (uint128) {
        vm.prank(address(disputes));
        return workers.slash(worker, amount, STRANGER);
    }

    function test_HalfIsBurnt() public {
        register();
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerSlashed(worker, STRANGER, 11, MIN_STAKE - 11, 0);
        assertEq(_slash(11), 11, "slashed");
        assertBalance(STRANGER, 5);
        assertBalance(BURN, 6);
        assertTrue(!workers.isActive(worker), "below the minimum");
    }

    /// @dev A worker cannot thaw its way out: what thaws can be slashed until it is paid.
    function test_ReachesThawingStake() public {
        register();
        vm.prank(operator);
        workers.thaw(worker, MIN_STAKE);
        vm.warp(block.timestamp + THAW_PERIOD);
        assertEq(_slash(type(uint128).max), MIN_STAKE, "all");
        IWorkerRegistry.Worker memory entry = workers.workers(worker);
        assertEq(entry.stake + entry.thawing, 0, "nothing left");
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNothingThawing.selector, worker));
        vm.prank(operator);
        workers.withdrawStake(worker);
    }

    function test_RevertWhen_NotTheDisputeManager() public {
        vm.expectRevert(
            abi.encodeWithSelector(
                IWorkerRegistry.WorkerRegistryNotDisputeManager.selector, address(disputes), STRANGER
            )
        );
        vm.prank(STRANGER);
        workers.slash(worker, 1, STRANGER);
    }
}
