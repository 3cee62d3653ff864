// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {EscrowSettlement} from "./escrow/EscrowSettlement.sol";
import {EscrowState} from "./escrow/EscrowState.sol";
import {IERC3009} from "./interfaces/IERC3009.sol";
import {IInferenceEscrow} from "./interfaces/IInferenceEscrow.sol";
import {GatewayState, Pair} from "./libraries/Packing.sol";
import {Slashing} from "./libraries/Slashing.sol";
import {TypedData} from "./libraries/TypedData.sol";

/// @title InferenceEscrow
/// @notice Specified in {IInferenceEscrow}. Here: everything that takes or pays tokens.
contract InferenceEscrow is EscrowSettlement, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    address private immutable _DEPLOYER;

    constructor(address token_, uint64 exitDelay_, uint64 reserveThaw_) EscrowState(token_, exitDelay_, reserveThaw_) {
        _DEPLOYER = msg.sender;
    }

    // ---------------------------------------------------------------- channels

    /// @inheritdoc IInferenceEscrow
    function deposit(Channel calldata channel, uint128 amount) external nonReentrant {
        _fund(channel, amount);
        _TOKEN.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IInferenceEscrow
    function depositWithPermit(
        Channel calldata channel,
        uint128 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        _fund(channel, amount);
        // A permit seen in the mempool can be used by anyone first; then the allowance is there and the pull decides.
        try IERC20Permit(address(_TOKEN)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _TOKEN.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IInferenceEscrow
    function depositWithAuthorization(
        Channel calldata channel,
        uint128 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonceSalt,
        bytes calldata signature
    ) external nonReentrant {
        bytes32 id = _fund(channel, amount);
        bytes32 nonce = keccak256(abi.encode(id, nonceSalt));
        IERC3009(address(_TOKEN))
            .receiveWithAuthorization(channel.payer, address(this), amount, validAfter, validBefore, nonce, signature);
    }

    /// @inheritdoc IInferenceEscrow
    function initiateExit(Channel calldata channel, uint128 amount) external {
        _onlyPayer(channel);
        require(amount > 0, InferenceEscrowZeroAmount());
        bytes32 id = channelId(channel);
        Exit storage exit = _exits[id];
        require(exit.exitAt == 0, InferenceEscrowExitPending(exit.amount, exit.exitAt));
        uint128 unclaimed = _unclaimed(id);
        require(amount <= unclaimed, InferenceEscrowInsufficientUnclaimed(amount, unclaimed));
        uint64 exitAt = (block.timestamp + exitDelay).toUint64();
        exit.amount = amount;
        exit.exitAt = exitAt;
        emit ExitInitiated(id, amount, exitAt);
    }

    /// @inheritdoc IInferenceEscrow
    function cancelExit(Channel calldata channel) external {
        _onlyPayer(channel);
        bytes32 id = channelId(channel);
        require(_exits[id].exitAt != 0, InferenceEscrowNoExit(id));
        _clearExit(id);
        emit ExitCancelled(id);
    }

    /// @inheritdoc IInferenceEscrow
    function finalizeExit(Channel calldata channel) external nonReentrant {
        bytes32 id = channelId(channel);
        Exit memory exit = _exits[id];
        require(exit.exitAt != 0, InferenceEscrowNoExit(id));
        require(block.timestamp >= exit.exitAt, InferenceEscrowExitNotReady(exit.exitAt, block.timestamp));
        uint128 unclaimed = _unclaimed(id);
        uint128 amount = exit.amount < unclaimed ? exit.amount : unclaimed;
        _clearExit(id);
        emit ExitFinalized(id, amount, _reduceDeposit(id, amount));
        _pay(channel.payer, amount);
    }

    /// @inheritdoc IInferenceEscrow
    function refund(Channel calldata channel, uint64 nonce, uint128 amount, bytes calldata gatewaySignature)
        external
        nonReentrant
    {
        bytes32 id = channelId(channel);
        Exit storage exit = _exits[id];
        require(nonce == exit.refundNonce, InferenceEscrowRefundNonce(nonce, exit.refundNonce));
        uint128 unclaimed = _unclaimed(id);
        require(amount <= unclaimed, InferenceEscrowInsufficientUnclaimed(amount, unclaimed));
        _checkSigner(TypedData.hashRefund(id, nonce, amount), gatewaySignature, channel.gateway);
        exit.refundNonce = nonce + 1;
        emit Refunded(id, nonce, amount, _reduceDeposit(id, amount));
        _pay(channel.payer, amount);
    }

    // ------------------------------------------------------------------ payees

    /// @inheritdoc IInferenceEscrow
    function withdraw(address gateway, address to, uint128 amount) external nonReentrant {
        Pair total = _payees[gateway][msg.sender];
        uint128 available = total.first() - total.second();
        require(amount > 0, InferenceEscrowZeroAmount());
        require(amount <= available, InferenceEscrowInsufficientCredit(amount, available));
        _payees[gateway][msg.sender] = total.withSecond(total.second() + amount);
        emit Withdrawn(gateway, msg.sender, to, amount, total.second() + amount);
        _pay(to, amount);
    }

    /// @inheritdoc IInferenceEscrow
    function withdrawMany(address[] calldata gateways, address to) external nonReentrant {
        uint256 sum = 0;
        for (uint256 i = 0; i < gateways.length; ++i) {
            Pair total = _payees[gateways[i]][msg.sender];
            uint128 amount = total.first() - total.second();
            if (amount == 0) continue;
            sum += amount;
            _payees[gateways[i]][msg.sender] = total.withSecond(total.first());
            emit Withdrawn(gateways[i], msg.sender, to, amount, total.first());
        }
        require(sum > 0, InferenceEscrowZeroAmount());
        _pay(to, sum);
    }

    // ---------------------------------------------------------------- reserves

    /// @inheritdoc IInferenceEscrow
    function fundReserve(address gateway, uint128 amount) external nonReentrant {
        require(gateway != address(0), InferenceEscrowZeroAddress());
        require(amount > 0, InferenceEscrowZeroAmount());
        uint128 reserve = _gateways[gateway].reserve() + amount;
        _gateways[gateway] = _gateways[gateway].withReserve(reserve);
        emit ReserveFunded(gateway, msg.sender, amount, reserve);
        _TOKEN.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IInferenceEscrow
    function thawReserve(uint128 amount) external {
        uint128 reserve = _gateways[msg.sender].reserve();
        require(amount <= reserve, InferenceEscrowInsufficientReserve(amount, reserve));
        uint64 thawedAt = amount == 0 ? 0 : (block.timestamp + reserveThaw).toUint64();
        _thaws[msg.sender] = Thaw(amount, thawedAt);
        emit ReserveThawing(msg.sender, amount, thawedAt);
    }

    /// @inheritdoc IInferenceEscrow
    function withdrawReserve(address to) external nonReentrant {
        Thaw memory thaw = _thaws[msg.sender];
        require(thaw.thawedAt != 0, InferenceEscrowNothingThawing(msg.sender));
        require(block.timestamp >= thaw.thawedAt, InferenceEscrowReserveNotThawed(thaw.thawedAt, block.timestamp));
        delete _thaws[msg.sender];
        (uint128 amount, uint128 reserve) = _reduceReserve(msg.sender, thaw.amount);
        emit ReserveWithdrawn(msg.sender, to, amount, reserve);
        _pay(to, amount);
    }

    // ---------------------------------------------------------------- disputes

    /// @inheritdoc IInferenceEscrow
    function setDisputeManager(address manager) external {
        require(msg.sender == _DEPLOYER, InferenceEscrowNotDeployer(_DEPLOYER, msg.sender));
        require(disputeManager == address(0), InferenceEscrowDisputeManagerSet(disputeManager));
        require(manager != address(0), InferenceEscrowZeroAddress());
        disputeManager = manager;
        emit DisputeManagerSet(manager);
    }

    /// @inheritdoc IInferenceEscrow
    function slashReserve(address gateway, uint128 amount, address beneficiary)
        external
        nonReentrant
        returns (uint128 slashed)
    {
        require(msg.sender == disputeManager, InferenceEscrowNotDisputeManager(disputeManager, msg.sender));
        uint128 reserve;
        (slashed, reserve) = _reduceReserve(gateway, amount);
        emit ReserveSlashed(gateway, beneficiary, slashed, reserve);
        Slashing.pay(_TOKEN, slashed, beneficiary);
    }

    // ----------------------------------------------------------------- private

    function _fund(Channel calldata channel, uint128 amount) private returns (bytes32 id) {
        require(
            channel.payer != address(0) && channel.signer != address(0) && channel.gateway != address(0),
            InferenceEscrowZeroAddress()
        );
        require(amount > 0, InferenceEscrowZeroAmount());
        id = channelId(channel);
        Exit storage exit = _exits[id];
        if (exit.exitAt != 0) {
            uint128 unclaimed = _unclaimed(id);
            if (exit.amount > unclaimed) exit.amount = unclaimed;
        }
        uint128 deposited = _channels[id].first() + amount;
        _channels[id] = _channels[id].withFirst(deposited);
        emit ChannelFunded(id, channel.payer, channel.gateway, channel.signer, channel.salt, amount, deposited);
    }

    function _reduceDeposit(bytes32 id, uint128 amount) private returns (uint128 deposited) {
        deposited = _channels[id].first() - amount;
        _channels[id] = _channels[id].withFirst(deposited);
    }

    /// @dev Takes up to `wanted` of what presented notes leave free.
    function _reduceReserve(address gateway, uint128 wanted) private returns (uint128 taken, uint128 reserve) {
        GatewayState state = _gateways[gateway];
        taken = _freeReserve(gateway, state.reserve());
        if (taken > wanted) taken = wanted;
        reserve = state.reserve() - taken;
        _gateways[gateway] = state.withReserve(reserve);
    }

    function _clearExit(bytes32 id) private {
        _exits[id].amount = 0;
        _exits[id].exitAt = 0;
    }

    function _onlyPayer(Channel calldata channel) private view {
        require(msg.sender == channel.payer, InferenceEscrowNotPayer(channel.payer, msg.sender));
    }
}
