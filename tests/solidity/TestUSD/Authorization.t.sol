// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC3009} from "@market/interfaces/IERC3009.sol";
import {TestUSD} from "@market/mocks/TestUSD.sol";

import {Fixture} from "../support/Fixture.sol";

contract AuthorizationTest is Fixture {
    bytes32 private constant NONCE = keccak256("nonce");
    uint256 private _before;

    function setUp() public override {
        super.setUp();
        token.mint(payer, 100);
        _before = block.timestamp + 10;
    }

    function _digest(bytes32 typeHash, uint256 value, uint256 validAfter) private view returns (bytes32) {
        bytes32 structHash = keccak256(abi.encode(typeHash, payer, owner, value, validAfter, _before, NONCE));
        return keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash));
    }

    function _transfer(uint256 value, uint256 validAfter) private view returns (bytes memory) {
        return signDigest(PAYER_KEY, _digest(token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), value, validAfter));
    }

    function _cancel() private view returns (bytes32) {
        bytes32 structHash = keccak256(abi.encode(token.CANCEL_AUTHORIZATION_TYPEHASH(), payer, NONCE));
        return keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash));
    }

    function test_TransfersOnceInOnePieceOrSplit() public {
        bytes memory signature = _transfer(40, 0);
        vm.expectEmit(address(token));
        emit IERC3009.AuthorizationUsed(payer, NONCE);
        token.transferWithAuthorization(payer, owner, 40, 0, _before, NONCE, signature);
        assertBalance(owner, 40);
        assertTrue(token.authorizationState(payer, NONCE), "used");
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(PAYER_KEY, _digest(token.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), 40, 0));
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationUsed.selector, payer, NONCE));
        token.transferWithAuthorization(payer, owner, 40, 0, _before, NONCE, v, r, s);
    }

    function test_OnlyThePayeeReceives() public {
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(PAYER_KEY, _digest(token.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), 40, 0));
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDCallerNotPayee.selector, owner, address(this)));
        token.receiveWithAuthorization(payer, owner, 40, 0, _before, NONCE, v, r, s);
        vm.prank(owner);
        token.receiveWithAuthorization(payer, owner, 40, 0, _before, NONCE, v, r, s);
        assertBalance(owner, 40);
    }

    function test_ACancelledNonceIsUsed() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, _cancel());
        vm.expectEmit(address(token));
        emit IERC3009.AuthorizationCanceled(payer, NONCE);
        token.cancelAuthorization(payer, NONCE, v, r, s);
        bytes memory signature = _transfer(40, 0);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationUsed.selector, payer, NONCE));
        token.transferWithAuthorization(payer, owner, 40, 0, _before, NONCE, signature);
    }

    function test_RevertWhen_OutsideItsTime() public {
        bytes memory signature = _transfer(40, block.timestamp);
        vm.expectRevert(
            abi.encodeWithSelector(TestUSD.TestUSDAuthorizationNotYetValid.selector, block.timestamp, block.timestamp)
        );
        token.transferWithAuthorization(payer, owner, 40, block.timestamp, _before, NONCE, signature);
        signature = _transfer(40, 0);
        vm.warp(_before);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationExpired.selector, _before, _before));
        token.transferWithAuthorization(payer, owner, 40, 0, _before, NONCE, signature);
    }

    function test_RevertWhen_AmountIsChanged() public {
        bytes memory signature = _transfer(40, 0);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDInvalidSignature.selector, payer));
        token.transferWithAuthorization(payer, owner, 41, 0, _before, NONCE, signature);
    }

    function test_LooksLikeUSDC() public view {
        assertEq(token.decimals(), 6, "decimals");
        assertEq(keccak256(bytes(token.symbol())), keccak256("tUSD"), "symbol");
        assertEq(keccak256(bytes(token.version())), keccak256("1"), "version");
    }
}
