// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Sessions} from "../support/Sessions.sol";

contract AuthorizeSessionTest is Sessions {
    function test_AnyoneAnnouncesWhatTheWorkerSigned() public {
        bytes memory signature = sessionSignature(WORKER_KEY, expiry);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.SessionAuthorized(worker, KEY, expiry);
        vm.prank(STRANGER);
        workers.authorizeSession(worker, KEY, expiry, signature);
        assertEq(workers.sessionExpiry(worker, KEY), expiry, "expiry");
    }

    function test_ALaterOneReplacesIt() public {
        authorize(expiry);
        authorize(expiry + 1);
        assertEq(workers.sessionExpiry(worker, KEY), expiry + 1, "expiry");
    }

    function test_RevertWhen_ARevokedSessionIsReplayed() public {
        bytes memory signature = sessionSignature(WORKER_KEY, expiry);
        workers.authorizeSession(worker, KEY, expiry, signature);
        vm.prank(operator);
        workers.revokeSession(worker, KEY);
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistrySessionExpired.selector, expiry, block.timestamp)
        );
        workers.authorizeSession(worker, KEY, expiry, signature);
    }

    /// @dev What the worker signed earlier is known to everybody; sent again, it must not cut the session short.
    function test_RevertWhen_AnEarlierSignatureWouldShortenIt() public {
        bytes memory earlier = sessionSignature(WORKER_KEY, expiry);
        authorize(expiry);
        authorize(expiry + 1);
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistrySessionExpired.selector, expiry, block.timestamp)
        );
        vm.prank(STRANGER);
        workers.authorizeSession(worker, KEY, expiry, earlier);
        authorize(expiry + 1);
        assertEq(workers.sessionExpiry(worker, KEY), expiry + 1, "expiry");
    }

    function test_RevertWhen_Expired() public {
        uint64 now_ = uint64(block.timestamp);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistrySessionExpired.selector, now_, now_));
        workers.authorizeSession(worker, KEY, now_, "");
    }

    function test_RevertWhen_TheWorkerDidNotSign() public {
        bytes memory forged = sessionSignature(OPERATOR_KEY, expiry);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryInvalidSigner.selector, operator, worker));
        workers.authorizeSession(worker, KEY, expiry, forged);
    }

    function test_RevertWhen_TheSignatureIsForAnotherExpiry() public {
        bytes memory signature = sessionSignature(WORKER_KEY, expiry);
        bytes32 digest =
            TypedData.digest(escrow.domainSeparator(), TypedData.hashWorkerSession(worker, KEY, expiry + 1));
        vm.expectRevert(
            abi.encodeWithSelector(
                IWorkerRegistry.WorkerRegistryInvalidSigner.selector, signerOf(digest, signature), worker
            )
        );
        workers.authorizeSession(worker, KEY, expiry + 1, signature);
    }

    function test_RevertWhen_TheKeyIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryZeroAddress.selector));
        workers.authorizeSession(worker, address(0), expiry, "");
    }

    function test_RevertWhen_TheWorkerIsUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryNotRegistered.selector, STRANGER));
        workers.authorizeSession(STRANGER, KEY, expiry, "");
    }
}
