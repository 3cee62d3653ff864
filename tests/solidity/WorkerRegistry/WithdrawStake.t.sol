// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Fixture} from "../support/Fixture.sol";

contract WithdrawStakeTest is Fixture {
    function _thaw(uint128 amount) private {
        vm.prank(operator);
        workers.thaw(worker, amount);
    }

    function _withdraw() private {
        vm.prank(operator);
        workers.withdrawStake(worker);
    }

    function test_PaysAfterTheThaw() public {
        register();
        uint64 thawedAt = uint64(block.timestamp) + THAW_PERIOD;
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.StakeThawing(worker, 30, thawedAt, MIN_STAKE);
        _thaw(30);
        assertTrue(!workers.isActive(worker), "thawing stake does not count");
        vm.warp(thawedAt);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.StakeWithdrawn(worker, operator, 30, MIN_STAKE - 30);
        _withdraw();
        assertBalance(operator, 30);
    }

    function test_ZeroTakesTheThawBack() public {
        register();
        _thaw(30);
        _thaw(0);
        assertTrue(workers.isActive(worker), "active again");
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNothingThawing.selector, worker));
        _withdraw();
    }

    function test_DeregisteringThawsAll() public {
        register();
        uint64 thawedAt = uint64(block.timestamp) + THAW_PERIOD;
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerDeregistered(worker, MIN_STAKE, thawedAt);
        vm.prank(operator);
        workers.deregister(worker);
        assertTrue(!workers.isActive(worker), "inactive");
        vm.warp(thawedAt);
        _withdraw();
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

    function test_RevertWhen_NotThawed() public {
        register();
        _thaw(30);
        uint64 thawedAt = uint64(block.timestamp) + THAW_PERIOD;
        vm.warp(thawedAt - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotThawed.selector, thawedAt, thawedAt - 1)
        );
        _withdraw();
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
        bytes memory expected =
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotOperator.selector, operator, worker);
        vm.startPrank(worker);
        vm.expectRevert(expected);
        workers.thaw(worker, 1);
        vm.expectRevert(expected);
        workers.withdrawStake(worker);
        vm.expectRevert(expected);
        workers.deregister(worker);
        vm.stopPrank();
    }
}
