// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TestUSD} from "@market/mocks/TestUSD.sol";
import {ERC3009DepositCollector} from "@market/x402/ERC3009DepositCollector.sol";

import {X402Fixture} from "../support/X402Fixture.sol";

contract CollectTest is X402Fixture {
    function test_BringsWhatThePayerAuthorized() public {
        token.mint(payer, 60);
        bytes memory data = authorization(id, 60, 1);
        vm.prank(AT);
        collector.collect(payer, address(token), 60, id, data);
        assertEq(token.balanceOf(AT), 60, "brought");
        assertEq(token.balanceOf(address(collector)), 0, "kept nothing");
    }

    function test_RevertWhen_AnAuthorizationIsUsedAgain() public {
        deposit(60);
        token.mint(payer, 60);
        bytes memory again = authorization(id, 60, 1);
        vm.expectRevert(
            abi.encodeWithSelector(
                TestUSD.TestUSDAuthorizationUsed.selector, payer, keccak256(abi.encode(id, uint256(1)))
            )
        );
        channels.deposit(config, 60, address(collector), again);
    }

    function test_RevertWhen_AnAuthorizationIsForAnotherChannel() public {
        token.mint(payer, 60);
        bytes memory other = authorization(bytes32(uint256(1)), 60, 1);
        vm.expectRevert(abi.encodeWithSelector(TestUSD.TestUSDInvalidSignature.selector, payer));
        channels.deposit(config, 60, address(collector), other);
    }

    function test_RevertWhen_SomebodyElseCollects() public {
        vm.expectRevert(
            abi.encodeWithSelector(ERC3009DepositCollector.ERC3009DepositCollectorNotChannels.selector, address(this))
        );
        collector.collect(payer, address(token), 1, id, "");
    }
}
