// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputeManager} from "@market/interfaces/IDisputeManager.sol";

import {Fixture} from "../support/Fixture.sol";

contract DisputesConstructorTest is Fixture {
    function test_NamesItsParts() public view {
        assertEq(address(disputes.escrow()), address(escrow), "escrow");
        assertEq(address(disputes.workers()), address(workers), "workers");
        assertEq(disputes.bond(), BOND, "bond");
        assertEq(disputes.window(), WINDOW, "window");
    }

    function test_RevertWhen_AnAddressIsZero() public {
        for (uint256 i = 0; i < 3; ++i) {
            address[3] memory parts = [address(escrow), address(workers), address(token)];
            parts[i] = address(0);
            vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerZeroAddress.selector));
            vm.deployCode("DisputeManager.sol", abi.encode(parts[0], parts[1], parts[2], BOND, WINDOW));
        }
    }
}
