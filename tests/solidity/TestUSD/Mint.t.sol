// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "../support/Fixture.sol";

contract MintTest is Fixture {
    function test_AnyoneMints() public {
        vm.prank(STRANGER);
        token.mint(owner, 40);
        assertBalance(owner, 40);
        assertEq(token.totalSupply(), 40, "supply");
    }

    function test_RevertWhen_ToNobody() public {
        vm.expectRevert(abi.encodeWithSignature("ERC20InvalidReceiver(address)", address(0)));
        token.mint(address(0), 1);
    }
}
