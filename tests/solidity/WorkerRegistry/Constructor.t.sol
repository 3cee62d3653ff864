// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IWorkerRegistry} from "@market/interfaces/IWorkerRegistry.sol";

import {Fixture} from "../support/Fixture.sol";

contract RegistryConstructorTest is Fixture {
    function test_KeepsItsTerms() public view {
        assertEq(workers.token(), address(token), "token");
        assertEq(workers.escrow(), address(escrow), "escrow");
        assertEq(workers.minStake(), MIN_STAKE, "least stake");
        assertEq(workers.thawPeriod(), THAW_PERIOD, "thaw");
    }

    function test_RevertWhen_AnAddressIsZero() public {
        bytes memory expected = abi.encodeWithSelector(IWorkerRegistry.WorkerRegistryZeroAddress.selector);
        vm.expectRevert(expected);
        vm.deployCode("WorkerRegistry.sol", abi.encode(address(0), address(escrow), 1, 1));
        vm.expectRevert(expected);
        vm.deployCode("WorkerRegistry.sol", abi.encode(address(token), address(0), 1, 1));
    }
}
