// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Fixture} from "../support/Fixture.sol";

contract AddStakeTest is Fixture {
    function test_AnyoneAdds() public {
        register();
        fund(STRANGER, 5, address(workers));
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.StakeAdded(worker, STRANGER, 5, MIN_STAKE + 5);
        vm.prank(STRANGER);
        workers.addStake(worker, 5);
        assertEq(workers.workers(worker).stake, MIN_STAKE + 5, "stake");
    }

    function test_RevertWhen_NotRegistered() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotRegistered.selector, worker));
        workers.addStake(worker, 5);
    }

    function test_RevertWhen_AmountIsZero() public {
        register();
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryZeroAmount.selector));
        workers.addStake(worker, 0);
    }
}
