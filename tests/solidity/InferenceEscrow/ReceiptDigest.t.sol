// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract ReceiptDigestTest is Fixture {
    /// @dev I9: every field, the chain and the contract are in the digest.
    function testFuzz_TheDigestBindsEveryField(uint8 field, uint64 salt) public {
        IInferenceEscrow.Receipt memory paper = receipt(1, 50, 400);
        bytes32 before = escrow.receiptDigest(paper);
        bytes memory raw = abi.encode(paper);
        uint256 at = bound(field, 0, 13) * 32;
        assembly {
            let word := add(add(raw, 32), at)
            mstore(word, xor(mload(word), add(salt, 1)))
        }
        // Seq and servedAt are 64 bits wide; a salt that leaves them is no valid receipt.
        (bool valid, bytes memory out) =
            address(escrow).staticcall(abi.encodePacked(IInferenceEscrow.receiptDigest.selector, raw));
        if (valid) assertTrue(abi.decode(out, (bytes32)) != before, "field");
        vm.chainId(block.chainid + 1);
        assertTrue(escrow.receiptDigest(paper) != before, "chain");
    }
}
