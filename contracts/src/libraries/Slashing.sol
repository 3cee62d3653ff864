// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title Slashing
/// @notice Splits slashed money: half, rounded down, to the beneficiary, the rest out of circulation, so that nobody gains
/// by slashing an account of their own.
library Slashing {
    using SafeERC20 for IERC20;

    /// @dev Stablecoins seldom let a holder burn; nobody has the key of this address.
    address internal constant BURN = 0x000000000000000000000000000000000000dEaD;

    function pay(IERC20 token, uint256 amount, address beneficiary) internal {
        uint256 reward = amount / 2;
        if (reward > 0) token.safeTransfer(beneficiary, reward);
        if (amount > 0) token.safeTransfer(BURN, amount - reward);
    }
}
