// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputeManager} from "@market/interfaces/IDisputeManager.sol";
import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract ReportWorkerEquivocationTest is Fixture {
    function _report(IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) private {
        bytes memory first = signDigest(WORKER_KEY, escrow.receiptDigest(a));
        bytes memory second = signDigest(WORKER_KEY, escrow.receiptDigest(b));
        vm.prank(STRANGER);
        disputes.reportWorkerEquivocation(a, first, b, second);
    }

    function _expectNoConflict(IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) private {
        bytes memory expected = abi.encodeWithSelector(
            IDisputeManager.DisputeManagerNoConflict.selector, escrow.receiptDigest(a), escrow.receiptDigest(b)
        );
        bytes memory first = signDigest(WORKER_KEY, escrow.receiptDigest(a));
        bytes memory second = signDigest(WORKER_KEY, escrow.receiptDigest(b));
        vm.expectRevert(expected);
        disputes.reportWorkerEquivocation(a, first, b, second);
    }

    function _pair() private view returns (IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) {
        a = receipt(1, 40, 40);
        b = receipt(1, 40, 40);
        b.outputHash = keccak256("another output");
    }

    function test_TwoAnswersToOneRequestCostTheStake() public {
        register();
        (IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) = _pair();
        b.seq = 2;
        vm.expectEmit(address(disputes));
        emit IDisputeManager.WorkerEquivocation(
            worker, escrow.receiptDigest(a), escrow.receiptDigest(b), STRANGER, MIN_STAKE
        );
        _report(a, b);
        assertBalance(STRANGER, MIN_STAKE / 2);
        assertTrue(!workers.isActive(worker), "inactive");
    }

    function test_TwoAnswersUnderOneNumberCostTheStake() public {
        register();
        (IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) = _pair();
        b.requestId = keccak256("another request");
        _report(a, b);
        assertBalance(STRANGER, MIN_STAKE / 2);
    }

    function test_RevertWhen_JudgedBefore() public {
        register();
        (IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) = _pair();
        _report(a, b);
        bytes memory first = signDigest(WORKER_KEY, escrow.receiptDigest(a));
        bytes memory second = signDigest(WORKER_KEY, escrow.receiptDigest(b));
        bytes32 evidence = keccak256(abi.encode("request", worker, a.requestId));
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerJudged.selector, evidence));
        disputes.reportWorkerEquivocation(b, second, a, first);
    }

    function test_RevertWhen_ThereIsNoConflict() public {
        (IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) = _pair();
        b.outputHash = a.outputHash;
        b.cumulative += 1;
        _expectNoConflict(a, b);
        (a, b) = _pair();
        b.inputHash = keccak256("another question");
        _expectNoConflict(a, b);
        (a, b) = _pair();
        b.modelId = keccak256("another model");
        _expectNoConflict(a, b);
        (a, b) = _pair();
        b.worker = STRANGER;
        _expectNoConflict(a, b);
        (a, b) = _pair();
        b.requestId = keccak256("another request");
        b.seq = 2;
        _expectNoConflict(a, b);
        b.seq = 1;
        b.channelId = keccak256("another channel");
        _expectNoConflict(a, b);
    }

    function test_RevertWhen_TheWorkerDidNotSignBoth() public {
        (IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) = _pair();
        bytes memory first = signDigest(WORKER_KEY, escrow.receiptDigest(a));
        bytes memory second = signDigest(GATEWAY_KEY, escrow.receiptDigest(b));
        bytes memory expected =
            abi.encodeWithSelector(IDisputeManager.DisputeManagerInvalidSigner.selector, gateway, worker);
        vm.expectRevert(expected);
        disputes.reportWorkerEquivocation(a, first, b, second);
        vm.expectRevert(expected);
        disputes.reportWorkerEquivocation(b, second, a, first);
    }
}
