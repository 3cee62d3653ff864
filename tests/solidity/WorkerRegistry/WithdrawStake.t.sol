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

    function test_RevertWhen_NothingThaws() public {
        register();
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNothingThawing.selector, worker));
        _withdraw();
    }

    function test_RevertWhen_NotTheOperator() public {
        register();
        _thaw(30);
        vm.warp(block.timestamp + THAW_PERIOD);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotOperator.selector, operator, worker));
        vm.prank(worker);
        workers.withdrawStake(worker);
    }
}
