// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TestUSD} from "@market/mocks/TestUSD.sol";

import {Authorizations} from "../support/Authorizations.sol";

contract ReceiveWithAuthorizationTest is Authorizations {
    function _digest() private view returns (bytes32) {
        return authorizationDigest(token.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), 40, 0);
    }

    function test_ReceivesWithASplitSignature() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, _digest());
        vm.prank(owner);
        token.receiveWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, v, r, s);
        assertBalance(owner, 40);
    }

    function test_ReceivesWithASignatureInOnePiece() public {
        bytes memory signature = signDigest(PAYER_KEY, _digest());
        vm.prank(owner);
        token.receiveWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, signature);
        assertBalance(owner, 40);
    }

    function test_RevertWhen_NotThePayee() public {
        bytes memory signature = signDigest(PAYER_KEY, _digest());
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDCallerNotPayee.selector, owner, address(this)));
        token.receiveWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, signature);
    }

    function test_RevertWhen_SignedForATransfer() public {
        bytes memory signature = signTransfer(40, 0);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDInvalidSignature.selector, payer));
        vm.prank(owner);
        token.receiveWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, signature);
    }
}
