// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {Fixture} from "../support/Fixture.sol";

contract DepositWithPermitTest is Fixture {
    function _permit(uint256 amount, uint256 deadline) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash =
            keccak256(abi.encode(typeHash, payer, address(escrow), amount, token.nonces(payer), deadline));
        return vm.sign(PAYER_KEY, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), structHash)));
    }

    function test_DepositsWithoutApproval() public {
        token.mint(payer, 50);
        (uint8 v, bytes32 r, bytes32 s) = _permit(50, block.timestamp);
        vm.prank(payer);
        escrow.depositWithPermit(channel, 50, block.timestamp, v, r, s);
        (uint128 deposited,,,) = escrow.channels(id);
        assertEq(deposited, 50, "deposited");
    }

    function test_SurvivesAFrontRunPermit() public {
        token.mint(payer, 50);
        (uint8 v, bytes32 r, bytes32 s) = _permit(50, block.timestamp);
        vm.prank(STRANGER);
        token.permit(payer, address(escrow), 50, block.timestamp, v, r, s);
        vm.prank(payer);
        escrow.depositWithPermit(channel, 50, block.timestamp, v, r, s);
        assertBalance(address(escrow), 50);
    }

    function test_RevertWhen_ThePermitIsOfAnother() public {
        token.mint(payer, 50);
        (uint8 v, bytes32 r, bytes32 s) = _permit(50, block.timestamp);
        vm.expectRevert(
            abi.encodeWithSignature("ERC20InsufficientAllowance(address,uint256,uint256)", address(escrow), 0, 50)
        );
        vm.prank(STRANGER);
        escrow.depositWithPermit(channel, 50, block.timestamp, v, r, s);
    }

    function test_RevertWhen_ThePermitExpired() public {
        token.mint(payer, 50);
        (uint8 v, bytes32 r, bytes32 s) = _permit(50, block.timestamp - 1);
        vm.expectRevert(
            abi.encodeWithSignature("ERC20InsufficientAllowance(address,uint256,uint256)", address(escrow), 0, 50)
        );
        vm.prank(payer);
        escrow.depositWithPermit(channel, 50, block.timestamp - 1, v, r, s);
    }
}
