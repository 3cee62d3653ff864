// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "./Fixture.sol";
import {Tree} from "./Tree.sol";

/// @notice A countersigned receipt that was in no batch for as long as one may take.
abstract contract Challenges is Fixture {
    IInferenceEscrow.Receipt internal paper;
    bytes32 internal digest;

    function setUp() public override {
        super.setUp();
        paper = receipt(1, 40, 40);
        digest = escrow.receiptDigest(paper);
        fund(operator, BOND, address(disputes));
        vm.warp(block.timestamp + WINDOW);
    }

    function challenge() internal {
        bytes memory byWorker = signDigest(WORKER_KEY, digest);
        bytes memory byGateway = signDigest(GATEWAY_KEY, digest);
        vm.prank(operator);
        disputes.challengeInclusion(paper, byWorker, byGateway);
    }

    /// @dev Settles a batch of three receipts and returns the proof of the challenged one.
    function settleWithReceipt() internal returns (bytes32[] memory proof) {
        bytes32[] memory digests = new bytes32[](3);
        (digests[0], digests[1], digests[2]) = (keccak256("x"), digest, keccak256("y"));
        bytes32 root;
        (root, proof) = Tree.build(digests, 1);
        vm.prank(gateway);
        escrow.settleBatch(1, root, 3, noDebits(), noCredits());
    }
}
