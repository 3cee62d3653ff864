// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TestUSD} from "@market/mocks/TestUSD.sol";
import {IDepositCollector, IX402Channels} from "@market/x402/IX402Channels.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

/// @notice Brings less than it was asked for.
contract ShortCollector is IDepositCollector {
    function collect(address, address token, uint128 amount, bytes32, bytes calldata) external {
        TestUSD(token).mint(msg.sender, amount - 1);
    }
}

/// @notice Tries to have one transfer counted twice.
contract NestingCollector is IDepositCollector {
    function collect(address payer, address token, uint128 amount, bytes32, bytes calldata) external {
        IX402Channels.ChannelConfig memory inner =
            IX402Channels.ChannelConfig(payer, payer, payer, payer, token, 15 minutes, 0);
        IX402Channels(msg.sender).deposit(inner, amount, address(this), "");
    }
}

contract X402DepositTest is X402Fixture {
    function test_CountsWhatArrives() public {
        token.mint(payer, 100);
        vm.expectEmit(AT);
        emit IX402Channels.ChannelCreated(id, config);
        vm.expectEmit(AT);
        emit IX402Channels.Deposited(id, address(this), 60, 60);
        channels.deposit(config, 60, address(collector), authorization(id, 60, 1));
        channels.deposit(config, 40, address(collector), authorization(id, 40, 2));
        assertChannel(100, 0);
        assertEq(token.balanceOf(AT), 100, "held");
    }

    function test_RevertWhen_TheCollectorBringsLess() public {
        address short = address(new ShortCollector());
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsCollected.selector, 59, 60));
        channels.deposit(config, 60, short, "");
    }

    function test_RevertWhen_TheCollectorNests() public {
        address nesting = address(new NestingCollector());
        vm.expectRevert(abi.encodeWithSignature("ReentrancyGuardReentrantCall()"));
        channels.deposit(config, 60, nesting, "");
    }

    function test_RevertWhen_AmountIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsZeroAmount.selector));
        channels.deposit(config, 0, address(collector), "");
    }

    function test_RevertWhen_TheDelayIsOutOfBounds() public {
        uint40[2] memory delays = [DELAY - 1, 30 days + 1];
        for (uint256 i = 0; i < delays.length; ++i) {
            config.withdrawDelay = delays[i];
            _expectBadConfig();
        }
    }

    function test_RevertWhen_AnAddressIsZero() public {
        IX402Channels.ChannelConfig memory whole = config;
        config.payer = address(0);
        _expectBadConfig();
        config = whole;
        config.receiver = address(0);
        _expectBadConfig();
        config = whole;
        config.receiverAuthorizer = address(0);
        _expectBadConfig();
        config = whole;
        config.token = address(0);
        _expectBadConfig();
    }

    function _expectBadConfig() private {
        vm.expectRevert(abi.encodeWithSelector(IX402Channels.X402ChannelsBadConfig.selector));
        channels.deposit(config, 1, address(collector), "");
    }
}
