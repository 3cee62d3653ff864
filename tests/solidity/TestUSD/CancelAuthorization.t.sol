// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "@market/interfaces/IERC3009.sol";
import {TestUSD} from "@market/mocks/TestUSD.sol";

import {Authorizations} from "../support/Authorizations.sol";

contract CancelAuthorizationTest is Authorizations {
    function test_CancelsWithASplitSignature() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, cancelDigest());
        vm.expectEmit(address(token));
        emit IERC3009.AuthorizationCanceled(payer, NONCE);
        token.cancelAuthorization(payer, NONCE, v, r, s);
        bytes memory signature = signTransfer(40, 0);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationUsed.selector, payer, NONCE));
        token.transferWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, signature);
    }

    function test_CancelsWithASignatureInOnePiece() public {
        token.cancelAuthorization(payer, NONCE, signDigest(PAYER_KEY, cancelDigest()));
        assertTrue(token.authorizationState(payer, NONCE), "used");
    }

    function test_RevertWhen_AnotherSigned() public {
        bytes memory signature = signDigest(OWNER_KEY, cancelDigest());
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDInvalidSignature.selector, payer));
        token.cancelAuthorization(payer, NONCE, signature);
    }

    function test_RevertWhen_UsedBefore() public {
        bytes memory signature = signDigest(PAYER_KEY, cancelDigest());
        token.cancelAuthorization(payer, NONCE, signature);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationUsed.selector, payer, NONCE));
        token.cancelAuthorization(payer, NONCE, signature);
    }
}
