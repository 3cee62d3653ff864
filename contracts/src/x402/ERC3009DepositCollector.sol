// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IERC3009} from "../interfaces/IERC3009.sol";
import {IDepositCollector} from "./IX402Channels.sol";

/// @title ERC3009DepositCollector
/// @notice Collects a payer's deposit by the payer's EIP-3009 authorization, on development chains.
/// @dev The nonce binds the authorization to one channel: keccak256(abi.encode(channelId, salt)).
contract ERC3009DepositCollector is IDepositCollector {
    using SafeERC20 for IERC20;

    /// @notice The only contract that may call `collect`, and the only one that receives.
    address public immutable channels;

    error ERC3009DepositCollectorNotChannels(address caller);

    constructor(address channels_) {
        channels = channels_;
    }

    /// @inheritdoc IDepositCollector
    /// @param data abi.encode(validAfter, validBefore, salt, signature)
    function collect(address payer, address token, uint128 amount, bytes32 channelId, bytes calldata data) external {
        require(msg.sender == channels, ERC3009DepositCollectorNotChannels(msg.sender));
        (uint256 validAfter, uint256 validBefore, uint256 salt, bytes memory signature) =
            abi.decode(data, (uint256, uint256, uint256, bytes));
        bytes32 nonce = keccak256(abi.encode(channelId, salt));
        IERC3009(token)
            .receiveWithAuthorization(payer, address(this), amount, validAfter, validBefore, nonce, signature);
        IERC20(token).safeTransfer(msg.sender, amount);
    }
}
