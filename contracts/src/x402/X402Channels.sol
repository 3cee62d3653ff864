// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IDepositCollector, IX402Channels} from "./IX402Channels.sol";

/// @title X402Channels
/// @notice Implementation of the x402 `batch-settlement` ABI for development chains, where the canonical contract is
/// not deployed. Its code is put at the SDKs' constant address.
/// @dev Has no constructor and no immutables, because its runtime code is placed and not deployed; for the same reason
/// the domain separator is computed where it is needed.
contract X402Channels is IX402Channels, ReentrancyGuardTransient, Multicall {
    using SafeERC20 for IERC20;

    struct Channel {
        uint128 balance;
        uint128 totalClaimed;
    }

    struct PendingWithdrawal {
        uint128 amount;
        uint40 initiatedAt;
    }

    struct Receiver {
        uint128 totalClaimed;
        uint128 totalSettled;
    }

    uint40 public constant MIN_WITHDRAW_DELAY = 15 minutes;
    uint40 public constant MAX_WITHDRAW_DELAY = 30 days;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant CHANNEL_CONFIG_TYPEHASH = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 private constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    bytes32 private constant REFUND_TYPEHASH = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    bytes32 private constant CLAIM_ENTRY_TYPEHASH =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    bytes32 private constant CLAIM_BATCH_TYPEHASH = keccak256(
        "ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );

    mapping(bytes32 channelId => Channel) private _channels;
    mapping(bytes32 channelId => PendingWithdrawal) private _withdrawals;
    mapping(bytes32 channelId => uint256) private _refundNonces;
    mapping(address receiver => mapping(address token => Receiver)) private _receivers;

    // ------------------------------------------------------------------ money in

    /// @inheritdoc IX402Channels
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external
        nonReentrant
    {
        require(amount > 0, X402ChannelsZeroAmount());
        require(
            config.payer != address(0) && config.receiver != address(0) && config.receiverAuthorizer != address(0)
                && config.token != address(0) && config.withdrawDelay >= MIN_WITHDRAW_DELAY
                && config.withdrawDelay <= MAX_WITHDRAW_DELAY,
            X402ChannelsBadConfig()
        );
        bytes32 id = getChannelId(config);
        uint256 before = IERC20(config.token).balanceOf(address(this));
        IDepositCollector(collector).collect(config.payer, config.token, amount, id, collectorData);
        uint256 received = IERC20(config.token).balanceOf(address(this)) - before;
        require(received == amount, X402ChannelsCollected(received, amount));
        Channel storage channel = _channels[id];
        if (channel.balance == 0 && channel.totalClaimed == 0) emit ChannelCreated(id, config);
        channel.balance += amount;
        emit Deposited(id, msg.sender, amount, channel.balance);
    }

    // ------------------------------------------------------------------ money to the receiver

    /// @inheritdoc IX402Channels
    function claim(VoucherClaim[] calldata voucherClaims) external nonReentrant {
        for (uint256 i = 0; i < voucherClaims.length; ++i) {
            address authorizer = voucherClaims[i].voucher.channel.receiverAuthorizer;
            require(msg.sender == authorizer, X402ChannelsNotAuthorized(msg.sender));
        }
        _claim(voucherClaims);
    }

    /// @inheritdoc IX402Channels
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature)
        external
        nonReentrant
    {
        require(voucherClaims.length > 0, X402ChannelsZeroAmount());
        address authorizer = voucherClaims[0].voucher.channel.receiverAuthorizer;
        for (uint256 i = 1; i < voucherClaims.length; ++i) {
            address other = voucherClaims[i].voucher.channel.receiverAuthorizer;
            require(other == authorizer, X402ChannelsAuthorizersDiffer(authorizer, other));
        }
        _checkSignature(authorizer, getClaimBatchDigest(voucherClaims), authorizerSignature);
        _claim(voucherClaims);
    }

    /// @inheritdoc IX402Channels
    function settle(address receiver, address token) external nonReentrant {
        Receiver storage total = _receivers[receiver][token];
        uint128 amount = total.totalClaimed - total.totalSettled;
        require(amount > 0, X402ChannelsZeroAmount());
        total.totalSettled = total.totalClaimed;
        emit Settled(receiver, token, msg.sender, amount);
        IERC20(token).safeTransfer(receiver, amount);
    }

    // ------------------------------------------------------------------ money back to the payer

    /// @inheritdoc IX402Channels
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external {
        require(
            msg.sender == config.payer || msg.sender == config.payerAuthorizer, X402ChannelsNotAuthorized(msg.sender)
        );
        require(amount > 0, X402ChannelsZeroAmount());
        bytes32 id = getChannelId(config);
        PendingWithdrawal storage pending = _withdrawals[id];
        require(pending.initiatedAt == 0, X402ChannelsWithdrawPending(pending.initiatedAt));
        uint128 unclaimed = _unclaimed(id);
        require(amount <= unclaimed, X402ChannelsInsufficientUnclaimed(amount, unclaimed));
        pending.amount = amount;
        pending.initiatedAt = uint40(block.timestamp);
        emit WithdrawInitiated(id, amount, uint40(block.timestamp) + config.withdrawDelay);
    }

    /// @inheritdoc IX402Channels
    function finalizeWithdraw(ChannelConfig calldata config) external nonReentrant {
        bytes32 id = getChannelId(config);
        PendingWithdrawal memory pending = _withdrawals[id];
        require(pending.initiatedAt != 0, X402ChannelsNoWithdraw(id));
        uint256 readyAt = uint256(pending.initiatedAt) + config.withdrawDelay;
        require(block.timestamp >= readyAt, X402ChannelsWithdrawNotReady(readyAt, block.timestamp));
        delete _withdrawals[id];
        uint128 unclaimed = _unclaimed(id);
        uint128 amount = pending.amount < unclaimed ? pending.amount : unclaimed;
        _channels[id].balance -= amount;
        emit WithdrawFinalized(id, amount);
        if (amount > 0) IERC20(config.token).safeTransfer(config.payer, amount);
    }

    /// @inheritdoc IX402Channels
    function refund(ChannelConfig calldata config, uint128 amount) external nonReentrant {
        require(msg.sender == config.receiverAuthorizer, X402ChannelsNotAuthorized(msg.sender));
        _refund(config, getChannelId(config), amount);
    }

    /// @inheritdoc IX402Channels
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external nonReentrant {
        bytes32 id = getChannelId(config);
        require(nonce == _refundNonces[id], X402ChannelsRefundNonce(nonce, _refundNonces[id]));
        _refundNonces[id] = nonce + 1;
        _checkSignature(config.receiverAuthorizer, getRefundDigest(id, nonce, amount), receiverAuthorizerSignature);
        _refund(config, id, amount);
    }

    // ------------------------------------------------------------------ views

    /// @inheritdoc IX402Channels
    function channels(bytes32 channelId) external view returns (uint128 balance, uint128 totalClaimed) {
        return (_channels[channelId].balance, _channels[channelId].totalClaimed);
    }

    /// @inheritdoc IX402Channels
    function pendingWithdrawals(bytes32 channelId) external view returns (uint128 amount, uint40 initiatedAt) {
        return (_withdrawals[channelId].amount, _withdrawals[channelId].initiatedAt);
    }

    /// @inheritdoc IX402Channels
    function receivers(address receiver, address token)
        external
        view
        returns (uint128 totalClaimed, uint128 totalSettled)
    {
        return (_receivers[receiver][token].totalClaimed, _receivers[receiver][token].totalSettled);
    }

    /// @inheritdoc IX402Channels
    function refundNonce(bytes32 channelId) external view returns (uint256) {
        return _refundNonces[channelId];
    }

    /// @inheritdoc IX402Channels
    function getChannelId(ChannelConfig calldata config) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(CHANNEL_CONFIG_TYPEHASH, config)));
    }

    /// @inheritdoc IX402Channels
    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(VOUCHER_TYPEHASH, channelId, maxClaimableAmount)));
    }

    /// @inheritdoc IX402Channels
    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) public view returns (bytes32) {
        return _digest(keccak256(abi.encode(REFUND_TYPEHASH, channelId, nonce, amount)));
    }

    /// @inheritdoc IX402Channels
    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) public view returns (bytes32) {
        bytes32[] memory entries = new bytes32[](voucherClaims.length);
        for (uint256 i = 0; i < voucherClaims.length; ++i) {
            VoucherClaim calldata row = voucherClaims[i];
            bytes32 id = getChannelId(row.voucher.channel);
            entries[i] =
                keccak256(abi.encode(CLAIM_ENTRY_TYPEHASH, id, row.voucher.maxClaimableAmount, row.totalClaimed));
        }
        return _digest(keccak256(abi.encode(CLAIM_BATCH_TYPEHASH, keccak256(abi.encodePacked(entries)))));
    }

    // ------------------------------------------------------------------ parts

    function _claim(VoucherClaim[] calldata rows) private {
        for (uint256 i = 0; i < rows.length; ++i) {
            VoucherClaim calldata row = rows[i];
            ChannelConfig calldata config = row.voucher.channel;
            bytes32 id = getChannelId(config);
            Channel storage channel = _channels[id];
            // Somebody was faster with the same or a better claim.
            if (row.totalClaimed <= channel.totalClaimed) continue;
            require(
                row.totalClaimed <= row.voucher.maxClaimableAmount,
                X402ChannelsClaimAboveVoucher(row.totalClaimed, row.voucher.maxClaimableAmount)
            );
            require(
                row.totalClaimed <= channel.balance, X402ChannelsClaimAboveBalance(row.totalClaimed, channel.balance)
            );
            bytes32 digest = getVoucherDigest(id, row.voucher.maxClaimableAmount);
            if (config.payerAuthorizer == address(0)) {
                _checkSignature(config.payer, digest, row.signature);
            } else {
                (address signer, ECDSA.RecoverError failed,) = ECDSA.tryRecover(digest, row.signature);
                require(
                    failed == ECDSA.RecoverError.NoError && signer == config.payerAuthorizer,
                    X402ChannelsInvalidSignature(config.payerAuthorizer)
                );
            }
            uint128 amount = row.totalClaimed - channel.totalClaimed;
            channel.totalClaimed = row.totalClaimed;
            _receivers[config.receiver][config.token].totalClaimed += amount;
            emit Claimed(id, msg.sender, amount, row.totalClaimed);
        }
    }

    function _refund(ChannelConfig calldata config, bytes32 id, uint128 amount) private {
        uint128 unclaimed = _unclaimed(id);
        if (amount > unclaimed) amount = unclaimed;
        require(amount > 0, X402ChannelsZeroAmount());
        _channels[id].balance -= amount;
        // What was on its way out and has just gone out is not to go out again.
        if (_withdrawals[id].amount > unclaimed - amount) _withdrawals[id].amount = unclaimed - amount;
        if (_withdrawals[id].amount == 0) delete _withdrawals[id];
        emit Refunded(id, msg.sender, amount);
        IERC20(config.token).safeTransfer(config.payer, amount);
    }

    function _unclaimed(bytes32 id) private view returns (uint128) {
        return _channels[id].balance - _channels[id].totalClaimed;
    }

    function _checkSignature(address signer, bytes32 digest, bytes calldata signature) private view {
        require(SignatureChecker.isValidSignatureNow(signer, digest, signature), X402ChannelsInvalidSignature(signer));
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        bytes32 separator = keccak256(
            abi.encode(
                DOMAIN_TYPEHASH, keccak256("x402 Batch Settlement"), keccak256("1"), block.chainid, address(this)
            )
        );
        return keccak256(abi.encodePacked("\x19\x01", separator, structHash));
    }
}
