// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {Tree} from "../support/Tree.sol";

import {Fixture} from "../support/Fixture.sol";

contract VerifyReceiptTest is Fixture {
    function testFuzz_EveryLeafIsProvedAndNothingElse(uint8 size, uint8 place, bytes32 other) public {
        size = uint8(bound(size, 1, 40));
        bytes32[] memory digests = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            digests[i] = keccak256(abi.encode(i));
        }
        (bytes32 root, bytes32[] memory proof) = Tree.build(digests, place % size);
        vm.prank(gateway);
        escrow.settleBatch(1, root, size, noDebits(), noCredits());
        bytes32 digest = digests[place % size];
        assertTrue(escrow.verifyReceipt(gateway, 1, digest, proof), "proved");
        assertTrue(!escrow.verifyReceipt(gateway, 2, digest, proof), "another epoch");
        assertTrue(!escrow.verifyReceipt(payer, 1, digest, proof), "another gateway");
        vm.assume(other != digest);
        assertTrue(!escrow.verifyReceipt(gateway, 1, other, proof), "another digest");
    }

    function test_AnInnerNodeIsNoLeaf() public {
        bytes32[] memory digests = new bytes32[](4);
        for (uint256 i = 0; i < 4; ++i) {
            digests[i] = keccak256(abi.encode(i));
        }
        (bytes32 root, bytes32[] memory proof) = Tree.build(digests, 0);
        vm.prank(gateway);
        escrow.settleBatch(1, root, 4, noDebits(), noCredits());
        bytes32[] memory shorter = new bytes32[](1);
        shorter[0] = proof[1];
        bytes32 inner = Tree.pairHash(Tree.leaf(digests[0]), proof[0]);
        assertTrue(!escrow.verifyReceipt(gateway, 1, inner, shorter), "inner node");
        assertTrue(!escrow.verifyReceipt(gateway, 1, root, new bytes32[](0)), "root");
    }
}
