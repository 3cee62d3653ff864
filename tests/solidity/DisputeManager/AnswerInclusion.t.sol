// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputeManager} from "@market/interfaces/IDisputeManager.sol";

import {Challenges} from "../support/Challenges.sol";

contract AnswerInclusionTest is Challenges {
    function test_TheGatewayAnswersAndKeepsTheBond() public {
        uint64 answerBy = uint64(block.timestamp) + WINDOW;
        challenge();
        bytes32[] memory proof = settleWithReceipt();
        vm.warp(answerBy);
        vm.expectEmit(address(disputes));
        emit IDisputeManager.InclusionAnswered(digest, gateway, 1);
        disputes.answerInclusion(digest, 1, proof);
        assertBalance(gateway, BOND);
        assertTrue(disputes.challenges(digest).status == IDisputeManager.Status.Answered, "status");
    }

    function test_RevertWhen_AnsweredBefore() public {
        challenge();
        bytes32[] memory proof = settleWithReceipt();
        disputes.answerInclusion(digest, 1, proof);
        vm.expectRevert(
            abi.encodeWithSelector(
                IDisputeManager.DisputeManagerNotOpen.selector, digest, IDisputeManager.Status.Answered
            )
        );
        disputes.answerInclusion(digest, 1, proof);
    }

    function test_RevertWhen_NotOpen() public {
        vm.expectRevert(
            abi.encodeWithSelector(IDisputeManager.DisputeManagerNotOpen.selector, digest, IDisputeManager.Status.None)
        );
        disputes.answerInclusion(digest, 1, new bytes32[](0));
    }

    function test_RevertWhen_TheProofIsWrong() public {
        challenge();
        bytes32[] memory proof = settleWithReceipt();
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerInvalidProof.selector, digest, 2));
        disputes.answerInclusion(digest, 2, proof);
    }

    function test_RevertWhen_AnsweredTooLate() public {
        challenge();
        bytes32[] memory proof = settleWithReceipt();
        uint64 answerBy = uint64(block.timestamp) + WINDOW;
        vm.warp(answerBy + 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerTooLate.selector, answerBy, answerBy + 1));
        disputes.answerInclusion(digest, 1, proof);
    }
}
