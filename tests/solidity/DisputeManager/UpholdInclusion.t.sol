// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputeManager} from "@market/interfaces/IDisputeManager.sol";

import {Challenges} from "../support/Challenges.sol";

contract UpholdInclusionTest is Challenges {
    address private constant BURN = 0x000000000000000000000000000000000000dEaD;

    function test_SilenceCostsTheReserve() public {
        fundReserve(10 * BOND);
        challenge();
        vm.warp(block.timestamp + WINDOW + 1);
        vm.expectEmit(address(disputes));
        emit IDisputeManager.InclusionUpheld(digest, gateway, operator, BOND + 40);
        disputes.upholdInclusion(digest);
        assertBalance(operator, BOND + (BOND + 40) / 2);
        assertBalance(BURN, (BOND + 40) / 2);
        (uint128 reserve,,) = escrow.reserves(gateway);
        assertEq(reserve, 9 * BOND - 40, "reserve");
    }

    function test_AnEmptyReserveStillGivesTheBondBack() public {
        challenge();
        vm.warp(block.timestamp + WINDOW + 1);
        vm.expectEmit(address(disputes));
        emit IDisputeManager.InclusionUpheld(digest, gateway, operator, 0);
        disputes.upholdInclusion(digest);
        assertBalance(operator, BOND);
        assertBalance(address(disputes), 0);
    }

    function test_RevertWhen_UpheldBefore() public {
        challenge();
        vm.warp(block.timestamp + WINDOW + 1);
        disputes.upholdInclusion(digest);
        vm.expectRevert(
            abi.encodeWithSelector(
                IDisputeManager.DisputeManagerNotOpen.selector, digest, IDisputeManager.Status.Upheld
            )
        );
        disputes.upholdInclusion(digest);
    }

    function test_RevertWhen_NotOpen() public {
        vm.expectRevert(
            abi.encodeWithSelector(IDisputeManager.DisputeManagerNotOpen.selector, digest, IDisputeManager.Status.None)
        );
        disputes.upholdInclusion(digest);
    }

    function test_RevertWhen_UpheldTooEarly() public {
        challenge();
        uint64 answerBy = uint64(block.timestamp) + WINDOW;
        vm.warp(answerBy);
        vm.expectRevert(abi.encodeWithSelector(IDisputeManager.DisputeManagerTooEarly.selector, answerBy, answerBy));
        disputes.upholdInclusion(digest);
    }
}
