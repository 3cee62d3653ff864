// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";
import {TypedData} from "@market/libraries/TypedData.sol";

import {Fixture} from "../support/Fixture.sol";

contract RegisterTest is Fixture {
    function _register(address caller, uint128 stake, uint64 deadline, bytes memory consent) private {
        vm.prank(caller);
        workers.register(worker, stake, "eu", "cpu", "wss://node", deadline, consent);
    }

    function _consent(uint256 key, address by, uint64 deadline) private view returns (bytes memory) {
        return sign(key, TypedData.hashWorkerConsent(by, worker, deadline));
    }

    function test_StakesAndAnnounces() public {
        fund(operator, MIN_STAKE, address(workers));
        uint64 deadline = uint64(block.timestamp);
        bytes memory consent = _consent(WORKER_KEY, operator, deadline);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerRegistered(worker, operator, MIN_STAKE, "eu", "cpu", "wss://node");
        _register(operator, MIN_STAKE, deadline, consent);
        IWorkerRegistry.Worker memory entry = workers.workers(worker);
        assertEq(entry.operator, operator, "operator");
        assertEq(entry.stake, MIN_STAKE, "stake");
        assertEq(entry.registeredAt, block.timestamp, "at");
        assertTrue(entry.registered && entry.active && workers.isActive(worker), "active");
        assertBalance(address(workers), MIN_STAKE);
    }

    function test_AWorkerRegistersItselfWithoutConsent() public {
        fund(worker, MIN_STAKE, address(workers));
        _register(worker, MIN_STAKE, uint64(block.timestamp), "");
        assertEq(workers.workers(worker).operator, worker, "operator");
    }

    function test_ComesBackUnderTheSameOperator() public {
        register();
        vm.prank(operator);
        workers.deregister(worker);
        register();
        IWorkerRegistry.Worker memory entry = workers.workers(worker);
        assertEq(entry.stake, 2 * MIN_STAKE, "stake");
        assertEq(entry.thawing, MIN_STAKE, "thawing");
        assertTrue(entry.active, "active");
    }

    function test_RevertWhen_TheStakeIsTooSmall() public {
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryInsufficientStake.selector, MIN_STAKE - 1, MIN_STAKE)
        );
        _register(operator, MIN_STAKE - 1, uint64(block.timestamp), "");
    }

    function test_RevertWhen_TheConsentExpired() public {
        uint64 deadline = uint64(block.timestamp) - 1;
        vm.expectRevert(
            abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryConsentExpired.selector, deadline, block.timestamp)
        );
        _register(operator, MIN_STAKE, deadline, "");
    }

    function test_RevertWhen_TheWorkerDidNotConsent() public {
        uint64 deadline = uint64(block.timestamp);
        bytes memory forged = _consent(OPERATOR_KEY, operator, deadline);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryInvalidSigner.selector, operator, worker));
        _register(operator, MIN_STAKE, deadline, forged);
        bytes memory forAnother = _consent(WORKER_KEY, operator, deadline);
        bytes32 digest =
            TypedData.digest(escrow.domainSeparator(), TypedData.hashWorkerConsent(STRANGER, worker, deadline));
        vm.expectRevert(
            abi.encodeWithSelector(
                IWorkerRegistry.WorkerRegistryInvalidSigner.selector, signerOf(digest, forAnother), worker
            )
        );
        _register(STRANGER, MIN_STAKE, deadline, forAnother);
    }

    function test_RevertWhen_Registered() public {
        register();
        uint64 deadline = uint64(block.timestamp);
        bytes memory consent = _consent(WORKER_KEY, operator, deadline);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryRegistered.selector, worker, operator));
        _register(operator, MIN_STAKE, deadline, consent);
    }

    function test_RevertWhen_AnotherOperatorTakesTheKey() public {
        register();
        vm.prank(operator);
        workers.deregister(worker);
        uint64 deadline = uint64(block.timestamp);
        bytes memory consent = _consent(WORKER_KEY, STRANGER, deadline);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryRegistered.selector, worker, operator));
        _register(STRANGER, MIN_STAKE, deadline, consent);
    }

    function test_RevertWhen_TheWorkerIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryZeroAddress.selector));
        workers.register(address(0), MIN_STAKE, "", "", "", uint64(block.timestamp), "");
    }
}
