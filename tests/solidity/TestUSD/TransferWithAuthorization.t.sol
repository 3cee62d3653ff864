// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "@market/interfaces/IERC3009.sol";
import {TestUSD} from "@market/mocks/TestUSD.sol";

import {Authorizations} from "../support/Authorizations.sol";

contract TransferWithAuthorizationTest is Authorizations {
    function test_TransfersWithASignatureInOnePiece() public {
        bytes memory signature = signTransfer(40, 0);
        vm.expectEmit(address(token));
        emit IERC3009.AuthorizationUsed(payer, NONCE);
        token.transferWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, signature);
        assertBalance(owner, 40);
        assertTrue(token.authorizationState(payer, NONCE), "used");
    }

    function test_TransfersWithASplitSignature() public {
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(PAYER_KEY, authorizationDigest(token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 40, 0));
        token.transferWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, v, r, s);
        assertBalance(owner, 40);
    }

    function test_RevertWhen_Replayed() public {
        bytes memory signature = signTransfer(40, 0);
        token.transferWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, signature);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationUsed.selector, payer, NONCE));
        token.transferWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, signature);
    }

    function test_RevertWhen_TooEarly() public {
        bytes memory signature = signTransfer(40, block.timestamp);
        vm.expectRevert(
            abi.encodeWithSelector(TestUSD.TestUSDAuthorizationNotYetValid.selector, block.timestamp, block.timestamp)
        );
        token.transferWithAuthorization(payer, owner, 40, block.timestamp, validBefore, NONCE, signature);
    }

    function test_RevertWhen_Expired() public {
        bytes memory signature = signTransfer(40, 0);
        vm.warp(validBefore);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationExpired.selector, validBefore, validBefore));
        token.transferWithAuthorization(payer, owner, 40, 0, validBefore, NONCE, signature);
    }

    function test_RevertWhen_AmountIsChanged() public {
        bytes memory signature = signTransfer(40, 0);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDInvalidSignature.selector, payer));
        token.transferWithAuthorization(payer, owner, 41, 0, validBefore, NONCE, signature);
    }

    function test_RevertWhen_ThePayerHasLess() public {
        bytes memory signature = signTransfer(101, 0);
        vm.expectRevert(abi.encodeWithSignature("ERC20InsufficientBalance(address,uint256,uint256)", payer, 100, 101));
        token.transferWithAuthorization(payer, owner, 101, 0, validBefore, NONCE, signature);
    }
}
