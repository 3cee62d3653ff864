// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Fixture} from "../support/Fixture.sol";

contract UpdateMetadataTest is Fixture {
    function test_Announces() public {
        register();
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerMetadata(worker, "us", "gpu", "");
        vm.prank(operator);
        workers.updateMetadata(worker, "us", "gpu", "");
    }

    function test_RevertWhen_NotTheOperator() public {
        register();
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotOperator.selector, operator, STRANGER));
        vm.prank(STRANGER);
        workers.updateMetadata(worker, "us", "gpu", "");
    }

    function test_RevertWhen_Deregistered() public {
        register();
        vm.startPrank(operator);
        workers.deregister(worker);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotRegistered.selector, worker));
        workers.updateMetadata(worker, "us", "gpu", "");
        vm.stopPrank();
    }
}
