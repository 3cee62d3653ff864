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

    function _unclaimedAndChecked() private view returns (uint256 sum) {
        for (uint256 i = 0; i < _handler.CHANNELS(); ++i) {
            (uint128 deposited, uint128 settled,,) = escrow.channels(_handler.id(i));
            assertLe(settled, deposited, "I2: settled at most deposited");
            assertLe(settled, _handler.signedCeiling(i), "I2: settled at most the highest voucher");
            assertEq(settled, _handler.expectedSettled(i), "I3, I6, I10: settled moves by sound rows alone");
            sum += deposited - settled;
        }
    }

    function _ofGateway(uint256 who) private view returns (uint256 sum) {
        address account = _handler.gateway(who);
        (uint128 reserve,,) = escrow.reserves(account);
        sum = reserve;
        uint256 owedInAll = 0;
        for (uint256 i = 0; i < _handler.PAYEES(); ++i) {
            (uint128 credited, uint128 withdrawn) = escrow.credits(account, _handler.payee(i));
            assertLe(withdrawn, credited, "withdrawn at most credited");
            assertLe(_handler.highestCredited(who, i), credited, "I3: credits never fall");
            sum += credited - withdrawn;
            (, uint128 owed) = escrow.notes(account, _handler.payee(i));
            owedInAll += owed;
        }
        assertEq(escrow.arrears(account), owedInAll, "arrears are the sum of what notes still claim");
        assertEq(escrow.lastEpoch(account), _handler.epochs(who), "I5: epochs");
        assertEq(escrow.receiptCount(account), _handler.receipts(who), "I5: receipt numbers have no gaps");
        for (uint64 epoch = 1; epoch <= _handler.epochs(who); ++epoch) {
            assertEq(escrow.settlements(account, epoch), _handler.roots(who, epoch), "I5: roots are written once");
        }
    }

    function invariant_TheBooksBalance() external view {
        uint256 sum = _unclaimedAndChecked();
        for (uint256 who = 0; who < _handler.GATEWAYS(); ++who) {
            sum += _ofGateway(who);
        }
        assertEq(token.balanceOf(address(escrow)), sum, "I1: every token belongs to somebody");
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
