// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Sessions} from "../support/Sessions.sol";

contract SessionExpiryTest is Sessions {
    function test_IsZeroFromItsExpiryOn() public {
        authorize(expiry);
        vm.warp(expiry - 1);
        assertEq(workers.sessionExpiry(worker, KEY), expiry, "last second");
        vm.warp(expiry);
        assertEq(workers.sessionExpiry(worker, KEY), 0, "expired");
    }

    function test_IsZeroOnceTheWorkerLeaves() public {
        authorize(expiry);
        vm.prank(operator);
        workers.deregister(worker);
        assertEq(workers.sessionExpiry(worker, KEY), 0, "left");
    }
}
