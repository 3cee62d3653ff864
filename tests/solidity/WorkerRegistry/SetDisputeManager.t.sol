// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Fixture} from "../support/Fixture.sol";

contract RegistrySetDisputeManagerTest is Fixture {
    IWorkerRegistry private _fresh;

    function setUp() public override {
        super.setUp();
        _fresh = IWorkerRegistry(
            vm.deployCode("WorkerRegistry.sol", abi.encode(address(token), address(escrow), MIN_STAKE, THAW_PERIOD))
        );
    }

    function test_TheDeployerNamesIt() public {
        _fresh.setDisputeManager(address(disputes));
        assertEq(_fresh.disputeManager(), address(disputes), "manager");
    }

    function test_RevertWhen_NotTheDeployer() public {
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotDeployer.selector, address(this), STRANGER)
        );
        vm.prank(STRANGER);
        _fresh.setDisputeManager(STRANGER);
    }

    function test_RevertWhen_NamedBefore() public {
        _fresh.setDisputeManager(address(disputes));
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryDisputeManagerSet.selector, address(disputes))
        );
        _fresh.setDisputeManager(STRANGER);
    }

    function test_RevertWhen_TheManagerIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryZeroAddress.selector));
        _fresh.setDisputeManager(address(0));
    }
}
