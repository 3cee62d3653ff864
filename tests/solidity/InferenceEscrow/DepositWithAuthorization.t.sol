// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";
import {TestUSD} from "@market/mocks/TestUSD.sol";

import {Fixture} from "../support/Fixture.sol";

contract DepositWithAuthorizationTest is Fixture {
    bytes32 private constant SALT = keccak256("salt");

    function _authorize(uint256 key, bytes32 channelId, uint256 amount, uint256 validBefore)
        private
        view
        returns (bytes memory)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                token.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                payer,
                address(escrow),
                amount,
                0,
                validBefore,
                keccak256(abi.encode(channelId, SALT))
            )
        );
        return signDigest(key, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash)));
    }

    function test_AnyoneRelays() public {
        token.mint(payer, 70);
        bytes memory signature = _authorize(PAYER_KEY, id, 70, block.timestamp + 1);
        vm.prank(STRANGER);
        escrow.depositWithAuthorization(channel, 70, 0, block.timestamp + 1, SALT, signature);
        (uint128 deposited,,,) = escrow.channels(id);
        assertEq(deposited, 70, "deposited");
        assertBalance(address(escrow), 70);
    }

    function test_RevertWhen_RelayedToAnotherChannel() public {
        token.mint(payer, 70);
        bytes memory signature = _authorize(PAYER_KEY, id, 70, block.timestamp + 1);
        IInferenceEscrow.Channel memory other = channel;
        other.gateway = STRANGER;
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDInvalidSignature.selector, payer));
        escrow.depositWithAuthorization(other, 70, 0, block.timestamp + 1, SALT, signature);
    }

    function test_RevertWhen_Replayed() public {
        token.mint(payer, 140);
        bytes memory signature = _authorize(PAYER_KEY, id, 70, block.timestamp + 1);
        escrow.depositWithAuthorization(channel, 70, 0, block.timestamp + 1, SALT, signature);
        vm.expectRevert(
            abi.encodeWithSelector(TestUSD.TestUSDAuthorizationUsed.selector, payer, keccak256(abi.encode(id, SALT)))
        );
        escrow.depositWithAuthorization(channel, 70, 0, block.timestamp + 1, SALT, signature);
        assertBalance(payer, 70);
        assertBalance(address(escrow), 70);
    }

    function test_RevertWhen_SignedByAnother() public {
        token.mint(payer, 70);
        bytes memory signature = _authorize(SIGNER_KEY, id, 70, block.timestamp + 1);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDInvalidSignature.selector, payer));
        escrow.depositWithAuthorization(channel, 70, 0, block.timestamp + 1, SALT, signature);
    }

    function test_RevertWhen_Expired() public {
        token.mint(payer, 70);
        uint256 validBefore = block.timestamp + 1;
        bytes memory signature = _authorize(PAYER_KEY, id, 70, validBefore);
        vm.warp(validBefore);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationExpired.selector, validBefore, validBefore));
        escrow.depositWithAuthorization(channel, 70, 0, validBefore, SALT, signature);
        assertBalance(payer, 70);
        assertBalance(address(escrow), 0);
    }

    function test_RevertWhen_NotYetValid() public {
        uint256 now_ = block.timestamp;
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDAuthorizationNotYetValid.selector, now_, now_));
        escrow.depositWithAuthorization(channel, 70, now_, now_ + 1, SALT, "");
    }

    function test_RevertWhen_AmountIsChanged() public {
        token.mint(payer, 71);
        bytes memory signature = _authorize(PAYER_KEY, id, 70, block.timestamp + 1);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDInvalidSignature.selector, payer));
        escrow.depositWithAuthorization(channel, 71, 0, block.timestamp + 1, SALT, signature);
    }
}
