// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "../support/Fixture.sol";

contract SessionsTest is Fixture {
    address private constant KEY = address(0x5E55);
    uint64 private _expiry;

    function setUp() public override {
        super.setUp();
        register();
        _expiry = uint64(block.timestamp + 1 days);
    }

    function _signature(uint256 key, uint64 expiry) private view returns (bytes memory) {
        return sign(key, TypedData.hashWorkerSession(worker, KEY, expiry));
    }

    function test_LastsUntilItsExpiry() public {
        bytes memory signature = _signature(WORKER_KEY, _expiry);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.SessionAuthorized(worker, KEY, _expiry);
        vm.prank(STRANGER);
        workers.authorizeSession(worker, KEY, _expiry, signature);
        assertEq(workers.sessionExpiry(worker, KEY), _expiry, "expiry");
        vm.warp(_expiry);
        assertEq(workers.sessionExpiry(worker, KEY), 0, "expired");
    }

    function test_OperatorOrWorkerRevokes() public {
        workers.authorizeSession(worker, KEY, _expiry, _signature(WORKER_KEY, _expiry));
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.SessionRevoked(worker, KEY);
        vm.prank(operator);
        workers.revokeSession(worker, KEY);
        assertEq(workers.sessionExpiry(worker, KEY), 0, "revoked");
        workers.authorizeSession(worker, KEY, _expiry + 1, _signature(WORKER_KEY, _expiry + 1));
        vm.prank(worker);
        workers.revokeSession(worker, KEY);
    }

    function test_RevertWhen_ARevokedSessionIsReplayed() public {
        bytes memory signature = _signature(WORKER_KEY, _expiry);
        workers.authorizeSession(worker, KEY, _expiry, signature);
        vm.prank(operator);
        workers.revokeSession(worker, KEY);
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistrySessionExpired.selector, _expiry, block.timestamp)
        );
        workers.authorizeSession(worker, KEY, _expiry, signature);
    }

    function test_RevertWhen_Expired() public {
        uint64 now_ = uint64(block.timestamp);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistrySessionExpired.selector, now_, now_));
        workers.authorizeSession(worker, KEY, now_, "");
    }

    function test_RevertWhen_TheWorkerDidNotSign() public {
        bytes memory forged = _signature(OPERATOR_KEY, _expiry);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryInvalidSigner.selector, operator, worker));
        workers.authorizeSession(worker, KEY, _expiry, forged);
    }

    function test_RevertWhen_KeyIsZeroOrWorkerUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryZeroAddress.selector));
        workers.authorizeSession(worker, address(0), _expiry, "");
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotRegistered.selector, STRANGER));
        workers.authorizeSession(STRANGER, KEY, _expiry, "");
    }

    function test_RevertWhen_RevokingWithoutRightOrSession() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotOperator.selector, operator, STRANGER));
        vm.prank(STRANGER);
        workers.revokeSession(worker, KEY);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryUnknownSession.selector, worker, KEY));
        vm.prank(operator);
        workers.revokeSession(worker, KEY);
    }
}
