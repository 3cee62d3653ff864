// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Sessions} from "../support/Sessions.sol";

contract RevokeSessionTest is Sessions {
    function test_TheOperatorRevokes() public {
        authorize(expiry);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.SessionRevoked(worker, KEY);
        vm.prank(operator);
        workers.revokeSession(worker, KEY);
        assertEq(workers.sessionExpiry(worker, KEY), 0, "revoked");
    }

    function test_TheWorkerRevokes() public {
        authorize(expiry);
        vm.prank(worker);
        workers.revokeSession(worker, KEY);
        assertEq(workers.sessionExpiry(worker, KEY), 0, "revoked");
    }

    function test_ALongerSessionMayFollow() public {
        authorize(expiry);
        vm.prank(operator);
        workers.revokeSession(worker, KEY);
        authorize(expiry + 1);
        assertEq(workers.sessionExpiry(worker, KEY), expiry + 1, "expiry");
    }

    function test_RevertWhen_NotOperatorNorWorker() public {
        authorize(expiry);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotOperator.selector, operator, STRANGER));
        vm.prank(STRANGER);
        workers.revokeSession(worker, KEY);
    }

    function test_RevertWhen_ThereIsNoSession() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryUnknownSession.selector, worker, KEY));
        vm.prank(operator);
        workers.revokeSession(worker, KEY);
    }
}
