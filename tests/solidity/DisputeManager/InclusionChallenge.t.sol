// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputeManager} from "@market/interfaces/IDisputeManager.sol";
import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {Tree} from "../support/Tree.sol";

import {Fixture} from "../support/Fixture.sol";

contract InclusionChallengeTest is Fixture {
    address private constant BURN = 0x000000000000000000000000000000000000dEaD;
    IInferenceEscrow.Receipt private _paper;
    bytes32 private _digest;

    function setUp() public override {
        super.setUp();
        _paper = receipt(1, 40, 40);
        _digest = escrow.receiptDigest(_paper);
        fund(operator, BOND, address(disputes));
        vm.warp(block.timestamp + WINDOW);
    }

    function _challenge() private {
        bytes memory byWorker = signDigest(WORKER_KEY, _digest);
        bytes memory byGateway = signDigest(GATEWAY_KEY, _digest);
        vm.prank(operator);
        disputes.challengeInclusion(_paper, byWorker, byGateway);
    }

    function _settleWithReceipt() private returns (bytes32[] memory proof) {
        bytes32[] memory digests = new bytes32[](3);
        (digests[0], digests[1], digests[2]) = (keccak256("x"), _digest, keccak256("y"));
        bytes32 root;
        (root, proof) = Tree.build(digests, 1);
        vm.prank(gateway);
        escrow.settleBatch(1, root, 3, noDebits(), noCredits());
    }

    function test_TheGatewayAnswersAndKeepsTheBond() public {
        uint64 answerBy = uint64(block.timestamp) + WINDOW;
        vm.expectEmit(address(disputes));
        emit IDisputeManager.InclusionChallenged(_digest, gateway, operator, BOND, answerBy);
        _challenge();
        bytes32[] memory proof = _settleWithReceipt();
        vm.warp(answerBy);
        vm.expectEmit(address(disputes));
        emit IDisputeManager.InclusionAnswered(_digest, gateway, 1);
        disputes.answerInclusion(_digest, 1, proof);
        assertBalance(gateway, BOND);
        assertTrue(disputes.challenges(_digest).status == IDisputeManager.Status.Answered, "status");
    }

    function test_SilenceCostsTheReserve() public {
        fundReserve(10 * BOND);
        _challenge();
        vm.warp(block.timestamp + WINDOW + 1);
        vm.expectEmit(address(disputes));
        emit IDisputeManager.InclusionUpheld(_digest, gateway, operator, BOND + 40);
        disputes.upholdInclusion(_digest);
        assertBalance(operator, BOND + (BOND + 40) / 2);
        assertBalance(BURN, (BOND + 40) / 2);
        (uint128 reserve,,) = escrow.reserves(gateway);
        assertEq(reserve, 9 * BOND - 40, "reserve");
    }

    function test_RevertWhen_ChallengedAgain() public {
        _challenge();
        fund(operator, BOND, address(disputes));
        vm.expectRevert(
            abi.encodeWithSelector(
                IDisputeManager.DisputeManagerChallenged.selector, _digest, IDisputeManager.Status.Open
            )
        );
        _challenge();
    }

    function test_RevertWhen_TheBatchMayStillCome() public {
        uint256 earliest = block.timestamp;
        vm.warp(earliest - 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerTooEarly.selector, earliest, earliest - 1));
        _challenge();
    }

    function test_RevertWhen_NotCountersigned() public {
        bytes memory byWorker = signDigest(WORKER_KEY, _digest);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerInvalidSigner.selector, worker, gateway));
        disputes.challengeInclusion(_paper, byWorker, byWorker);
        bytes memory byGateway = signDigest(GATEWAY_KEY, _digest);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerInvalidSigner.selector, gateway, worker));
        disputes.challengeInclusion(_paper, byGateway, byGateway);
    }

    function test_RevertWhen_TheProofIsWrong() public {
        _challenge();
        bytes32[] memory proof = _settleWithReceipt();
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerInvalidProof.selector, _digest, 2));
        disputes.answerInclusion(_digest, 2, proof);
    }

    function test_RevertWhen_AnsweredTooLate() public {
        _challenge();
        bytes32[] memory proof = _settleWithReceipt();
        uint64 answerBy = uint64(block.timestamp) + WINDOW;
        vm.warp(answerBy + 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerTooLate.selector, answerBy, answerBy + 1));
        disputes.answerInclusion(_digest, 1, proof);
    }

    function test_RevertWhen_UpheldTooEarly() public {
        _challenge();
        uint64 answerBy = uint64(block.timestamp) + WINDOW;
        vm.warp(answerBy);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerTooEarly.selector, answerBy, answerBy));
        disputes.upholdInclusion(_digest);
    }

    function test_RevertWhen_NotOpen() public {
        bytes memory expected = abi.encodeWithSelector(
            IDisputeManager.DisputeManagerNotOpen.selector, _digest, IDisputeManager.Status.None
        );
        vm.expectRevert(expected);
        disputes.answerInclusion(_digest, 1, new bytes32[](0));
        vm.expectRevert(expected);
        disputes.upholdInclusion(_digest);
    }

    function test_RevertWhen_AnAddressIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerZeroAddress.selector));
        vm.deployCode("DisputeManager.sol", abi.encode(address(0), address(workers), address(token), BOND, WINDOW));
    }

    function test_NamesItsParts() public view {
        assertEq(address(disputes.escrow()), address(escrow), "escrow");
        assertEq(address(disputes.workers()), address(workers), "workers");
        assertEq(disputes.bond(), BOND, "bond");
        assertEq(disputes.window(), WINDOW, "window");
    }
}
