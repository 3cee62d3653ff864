// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputeManager} from "@market/interfaces/IDisputeManager.sol";

import {Challenges} from "../support/Challenges.sol";

contract ChallengeInclusionTest is Challenges {
    function test_TakesTheBondAndStartsTheClock() public {
        uint64 answerBy = uint64(block.timestamp) + WINDOW;
        vm.expectEmit(address(disputes));
        emit IDisputeManager.InclusionChallenged(digest, gateway, operator, BOND, answerBy);
        challenge();
        assertBalance(operator, 0);
        assertBalance(address(disputes), BOND);
        IDisputeManager.Challenge memory entry = disputes.challenges(digest);
        assertEq(entry.challenger, operator, "challenger");
        assertEq(entry.gateway, gateway, "gateway");
        assertEq(entry.bond, BOND, "bond");
        assertEq(entry.penalty, BOND + 40, "penalty");
        assertEq(entry.answerBy, answerBy, "answer by");
        assertTrue(entry.status == IDisputeManager.Status.Open, "status");
    }

    function test_RevertWhen_ChallengedAgain() public {
        challenge();
        fund(operator, BOND, address(disputes));
        vm.expectRevert(
            abi.encodeWithSelector(
                IDisputeManager.DisputeManagerChallenged.selector, digest, IDisputeManager.Status.Open
            )
        );
        challenge();
    }

    function test_RevertWhen_TheBatchMayStillCome() public {
        uint256 earliest = block.timestamp;
        vm.warp(earliest - 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerTooEarly.selector, earliest, earliest - 1));
        challenge();
    }

    function test_RevertWhen_NotCountersigned() public {
        bytes memory byWorker = signDigest(WORKER_KEY, digest);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerInvalidSigner.selector, worker, gateway));
        disputes.challengeInclusion(paper, byWorker, byWorker);
        bytes memory byGateway = signDigest(GATEWAY_KEY, digest);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerInvalidSigner.selector, gateway, worker));
        disputes.challengeInclusion(paper, byGateway, byGateway);
    }

    function test_RevertWhen_TheBondIsNotApproved() public {
        vm.prank(operator);
        token.approve(address(disputes), BOND - 1);
        bytes memory byWorker = signDigest(WORKER_KEY, digest);
        bytes memory byGateway = signDigest(GATEWAY_KEY, digest);
        vm.expectRevert(
            abi.encodeWithSignature(
                "ERC20InsufficientAllowance(address,uint256,uint256)", address(disputes), BOND - 1, BOND
            )
        );
        vm.prank(operator);
        disputes.challengeInclusion(paper, byWorker, byGateway);
    }
}
