// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Fixture} from "../support/Fixture.sol";

contract ThawTest is Fixture {
    function _thaw(uint128 amount) private {
        vm.prank(operator);
        workers.thaw(worker, amount);
    }

    function test_StartsTheClock() public {
        register();
        uint64 thawedAt = uint64(block.timestamp) + THAW_PERIOD;
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.StakeThawing(worker, 30, thawedAt, MIN_STAKE);
        _thaw(30);
        IWorkerRegistry.Worker memory entry = workers.workers(worker);
        assertEq(entry.stake, MIN_STAKE, "still there");
        assertEq(entry.thawing, 30, "thawing");
        assertEq(entry.thawedAt, thawedAt, "at");
        assertTrue(!entry.active, "thawing stake does not count");
    }

    function test_AskingAnewStartsAnew() public {
        register();
        _thaw(30);
        vm.warp(block.timestamp + THAW_PERIOD - 1);
        _thaw(31);
        IWorkerRegistry.Worker memory entry = workers.workers(worker);
        assertEq(entry.thawing, 31, "thawing");
        assertEq(entry.thawedAt, block.timestamp + THAW_PERIOD, "at");
    }

    function test_ZeroTakesTheThawBack() public {
        register();
        _thaw(30);
        _thaw(0);
        assertTrue(workers.isActive(worker), "active again");
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNothingThawing.selector, worker));
        vm.prank(operator);
        workers.withdrawStake(worker);
    }

    function test_RevertWhen_ThawingMoreThanThereIs() public {
        register();
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryInsufficientStake.selector, MIN_STAKE, MIN_STAKE + 1)
        );
        _thaw(MIN_STAKE + 1);
    }

    function test_RevertWhen_NotTheOperator() public {
        register();
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotOperator.selector, operator, worker));
        vm.prank(worker);
        workers.thaw(worker, 1);
    }
}
