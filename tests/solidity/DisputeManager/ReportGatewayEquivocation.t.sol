// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputeManager} from "@market/interfaces/IDisputeManager.sol";
import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract ReportGatewayEquivocationTest is Fixture {
    function _report(IInferenceEscrow.Receipt memory a, IInferenceEscrow.Receipt memory b) private {
        bytes memory first = signDigest(GATEWAY_KEY, escrow.receiptDigest(a));
        bytes memory second = signDigest(GATEWAY_KEY, escrow.receiptDigest(b));
        vm.prank(STRANGER);
        disputes.reportGatewayEquivocation(a, first, b, second);
    }

    function test_OneNumberForTwoReceiptsCostsTheReserve() public {
        fundReserve(10 * BOND);
        IInferenceEscrow.Receipt memory a = receipt(1, 40, 40);
        IInferenceEscrow.Receipt memory b = receipt(1, 60, 100);
        vm.expectEmit(address(disputes));
        emit IDisputeManager.GatewayEquivocation(
            gateway, escrow.receiptDigest(a), escrow.receiptDigest(b), STRANGER, BOND + 100
        );
        _report(a, b);
        assertBalance(STRANGER, (BOND + 100) / 2);
    }

    function test_RevertWhen_JudgedBefore() public {
        _report(receipt(1, 40, 40), receipt(1, 60, 100));
        IInferenceEscrow.Receipt memory a = receipt(1, 40, 40);
        IInferenceEscrow.Receipt memory b = receipt(1, 70, 100);
        bytes memory first = signDigest(GATEWAY_KEY, escrow.receiptDigest(a));
        bytes memory second = signDigest(GATEWAY_KEY, escrow.receiptDigest(b));
        bytes32 evidence = keccak256(abi.encode("gateway", gateway, id, uint64(1)));
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerJudged.selector, evidence));
        disputes.reportGatewayEquivocation(a, first, b, second);
    }

    function test_RevertWhen_ThereIsNoConflict() public {
        IInferenceEscrow.Receipt memory a = receipt(1, 40, 40);
        IInferenceEscrow.Receipt[] memory others = new IInferenceEscrow.Receipt[](4);
        for (uint256 i = 0; i < 4; ++i) {
            others[i] = receipt(1, 40, 40);
        }
        others[1].seq = 2;
        others[2].channelId = keccak256("another channel");
        others[3].gateway = STRANGER;
        bytes memory signature = signDigest(GATEWAY_KEY, escrow.receiptDigest(a));
        for (uint256 i = 0; i < 4; ++i) {
            bytes memory expected = abi.encodeWithSelector(
                IDisputeManager.DisputeManagerNoConflict.selector,
                escrow.receiptDigest(a),
                escrow.receiptDigest(others[i])
            );
            vm.expectRevert(expected);
            disputes.reportGatewayEquivocation(a, signature, others[i], signature);
        }
    }

    function test_RevertWhen_TheGatewayDidNotSignBoth() public {
        IInferenceEscrow.Receipt memory a = receipt(1, 40, 40);
        IInferenceEscrow.Receipt memory b = receipt(1, 60, 100);
        bytes memory first = signDigest(GATEWAY_KEY, escrow.receiptDigest(a));
        bytes memory second = signDigest(WORKER_KEY, escrow.receiptDigest(b));
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerInvalidSigner.selector, worker, gateway));
        disputes.reportGatewayEquivocation(a, first, b, second);
    }
}
