// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";

/// @notice A payer with 100 units, and the EIP-3009 papers it can sign for its owner's account.
abstract contract Authorizations is Fixture {
    bytes32 internal constant NONCE = keccak256("nonce");
    uint256 internal validBefore;

    function setUp() public override {
        super.setUp();
        token.mint(payer, 100);
        validBefore = block.timestamp + 10;
    }

    function authorizationDigest(bytes32 typeHash, uint256 value, uint256 validAfter) internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(typeHash, payer, owner, value, validAfter, validBefore, NONCE)));
    }

    function signTransfer(uint256 value, uint256 validAfter) internal view returns (bytes memory) {
        bytes32 digest = authorizationDigest(token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), value, validAfter);
        return signDigest(PAYER_KEY, digest);
    }

    function cancelDigest() internal view returns (bytes32) {
        return _digest(keccak256(abi.encode(token.CANCEL_AUTHORIZATION_TYPEHASH(), payer, NONCE)));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        return keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash));
    }
}
