// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "@market/interfaces/IInferenceEscrow.sol";

import {EscrowHandler} from "./support/EscrowHandler.sol";
import {Fixture} from "./support/Fixture.sol";

/// @notice What holds after any sequence of calls. I4, I7 and I8 are asserted inside the handler, where the call is known.
contract InvariantsTest is Fixture {
    EscrowHandler private _handler;

    function setUp() public override {
        super.setUp();
        _handler = new EscrowHandler(escrow, token);
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_handler);
    }

    function invariant_TheBooksBalance() external view {
        _handler.check();
    }

    /// @dev I7 to the end: after anything, each payer can take out all that is unclaimed.
    function afterInvariant() external {
        for (uint256 i = 0; i < _handler.CHANNELS(); ++i) {
            IInferenceEscrow.Channel memory c = _handler.channel(i);
            (uint128 deposited, uint128 settled,, uint64 exitAt) = escrow.channels(_handler.id(i));
            uint256 before = token.balanceOf(c.payer);
            vm.startPrank(c.payer);
            if (exitAt != 0) escrow.cancelExit(c);
            if (deposited > settled) {
                escrow.initiateExit(c, deposited - settled);
                vm.warp(block.timestamp + EXIT_DELAY);
                escrow.finalizeExit(c);
            }
            vm.stopPrank();
            assertEq(token.balanceOf(c.payer) - before, deposited - settled, "I7: all unclaimed money leaves");
        }
    }
}
