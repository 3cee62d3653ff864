// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

/// @notice A payer with code that takes one digest, as EIP-1271 has it.
contract Wallet {
    bytes32 private immutable _DIGEST;

    constructor(bytes32 digest) {
        _DIGEST = digest;
    }

    function isValidSignature(bytes32 digest, bytes calldata) external view returns (bytes4) {
        return digest == _DIGEST ? this.isValidSignature.selector : bytes4(0);
    }
}

contract X402ClaimTest is X402Fixture {
    uint256 private constant STRANGER_KEY = 0xBAD;

    function setUp() public override {
        super.setUp();
        deposit(100);
    }

    function test_TheAuthorizerClaimsWithoutASignature() public {
        IX402Channels.VoucherClaim[] memory rows = row(SESSION_KEY, 50, 50);
        vm.prank(seller);
        channels.claim(rows);
        assertChannel(100, 50);
    }

    function test_AContractWalletSignsWhereNoSessionKeyIsNamed() public {
        config.payerAuthorizer = address(0);
        id = channels.getChannelId(config);
        token.mint(payer, 50);
        channels.deposit(config, 50, address(collector), authorization(id, 50, 9));
        vm.etch(payer, address(new Wallet(channels.getVoucherDigest(id, 20))).code);
        IX402Channels.VoucherClaim[] memory rows = row(STRANGER_KEY, 20, 20);
        vm.prank(seller);
        channels.claim(rows);
        assertChannel(50, 20);
    }

    function test_RevertWhen_NotTheAuthorizer() public {
        IX402Channels.VoucherClaim[] memory rows = row(SESSION_KEY, 50, 50);
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsNotAuthorized.selector, STRANGER));
        vm.prank(STRANGER);
        channels.claim(rows);
    }
}
