// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract EscrowSetDisputeManagerTest is Fixture {
    IInferenceEscrow private _fresh;

    function setUp() public override {
        super.setUp();
        _fresh = IInferenceEscrow(
            vm.deployCode("InferenceEscrow.sol", abi.encode(address(token), EXIT_DELAY, RESERVE_THAW))
        );
    }

    function test_TheDeployerNamesIt() public {
        vm.expectEmit(address(_fresh));
        emit IInferenceEscrow.DisputeManagerSet(address(disputes));
        _fresh.setDisputeManager(address(disputes));
        assertEq(_fresh.disputeManager(), address(disputes), "manager");
    }

    function test_RevertWhen_NotTheDeployer() public {
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowNotDeployer.selector, address(this), STRANGER)
        );
        vm.prank(STRANGER);
        _fresh.setDisputeManager(STRANGER);
    }

    function test_RevertWhen_NamedBefore() public {
        _fresh.setDisputeManager(address(disputes));
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowDisputeManagerSet.selector, address(disputes))
        );
        _fresh.setDisputeManager(STRANGER);
    }

    function test_RevertWhen_TheManagerIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InferenceEscrowZeroAddress.selector));
        _fresh.setDisputeManager(address(0));
    }
}
