// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IX402Channels
/// @notice The ABI that the x402 SDKs publish for their `batch-settlement` scheme: channels that a payer funds, a
/// receiver claims from with the payer's cumulative vouchers, and from which claimed money is swept to the receiver.
/// @dev Signatures are EIP-712 in the domain (`x402 Batch Settlement`, `1`, chain id, this contract).
/// `balance` is what was deposited less what went back to the payer; claims do not lower it, so that
/// `balance - totalClaimed` is what the payer still owns. `multicall(bytes[])` runs several calls in one transaction.
interface IX402Channels {
    /// @notice Preimage of a channel id.
    /// @param payerAuthorizer plain key that signs the vouchers; zero means the payer itself, by EIP-1271 if it has code.
    /// @param receiverAuthorizer who authorizes claims and refunds, by EIP-1271 if it has code.
    /// @param withdrawDelay seconds between the payer's wish to leave and the payout.
    struct ChannelConfig {
        address payer;
        address payerAuthorizer;
        address receiver;
        address receiverAuthorizer;
        address token;
        uint40 withdrawDelay;
        bytes32 salt;
    }

    struct Voucher {
        ChannelConfig channel;
        uint128 maxClaimableAmount;
    }

    /// @notice One channel's row of a claim: raise what is claimed to `totalClaimed`, covered by the signed voucher.
    struct VoucherClaim {
        Voucher voucher;
        bytes signature;
        uint128 totalClaimed;
    }

    event ChannelCreated(bytes32 indexed channelId, ChannelConfig config);
    event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance);
    event Claimed(bytes32 indexed channelId, address indexed sender, uint128 claimAmount, uint128 newTotalClaimed);
    event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount);
    event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter);
    event WithdrawFinalized(bytes32 indexed channelId, uint128 amount);
    event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);

    error X402ChannelsBadConfig();
    error X402ChannelsZeroAmount();
    error X402ChannelsCollected(uint256 received, uint128 expected);
    error X402ChannelsInvalidSignature(address signer);
    error X402ChannelsClaimAboveVoucher(uint128 totalClaimed, uint128 maxClaimableAmount);
    error X402ChannelsClaimAboveBalance(uint128 totalClaimed, uint128 balance);
    error X402ChannelsAuthorizersDiffer(address expected, address actual);
    error X402ChannelsNotAuthorized(address caller);
    error X402ChannelsWithdrawPending(uint40 initiatedAt);
    error X402ChannelsNoWithdraw(bytes32 channelId);
    error X402ChannelsWithdrawNotReady(uint256 readyAt, uint256 timestamp);
    error X402ChannelsInsufficientUnclaimed(uint128 amount, uint128 unclaimed);
    error X402ChannelsRefundNonce(uint256 nonce, uint256 expected);

    /// @notice Funds a channel with `amount`, which `collector` must bring here from the payer.
    /// @dev What counts is what arrives, so any collector may be named.
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external;

    /// @notice Claims by the receiver's authorizer itself. A row that raises nothing is skipped, a wrong one reverts.
    function claim(VoucherClaim[] calldata voucherClaims) external;

    /// @notice Claims by anybody with the signature of the rows' one receiver authorizer over all of them.
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature) external;

    /// @notice Sends everything claimed for (`receiver`, `token`) and not sent yet to the receiver.
    function settle(address receiver, address token) external;

    /// @notice Starts the payer's way out for `amount` of what is unclaimed now; one at a time.
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Pays a withdrawal out once its delay is over, capped at what is unclaimed by then.
    function finalizeWithdraw(ChannelConfig calldata config) external;

    /// @notice Sends `amount` back to the payer at once, at most what is unclaimed, by the receiver's authorizer.
    function refund(ChannelConfig calldata config, uint128 amount) external;

    /// @notice The same by anybody with the authorizer's signature for exactly this `nonce`.
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata receiverAuthorizerSignature
    ) external;

    function getChannelId(ChannelConfig calldata config) external view returns (bytes32);

    function channels(bytes32 channelId) external view returns (uint128 balance, uint128 totalClaimed);

    function pendingWithdrawals(bytes32 channelId) external view returns (uint128 amount, uint40 initiatedAt);

    function receivers(address receiver, address token)
        external
        view
        returns (uint128 totalClaimed, uint128 totalSettled);

    function refundNonce(bytes32 channelId) external view returns (uint256);

    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) external view returns (bytes32);

    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) external view returns (bytes32);

    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) external view returns (bytes32);
}

/// @title IDepositCollector
/// @notice Brings a payer's money to the channels contract.
interface IDepositCollector {
    /// @notice Moves `amount` of `token` from `payer` to the caller; only the channels contract may call it.
    function collect(address payer, address token, uint128 amount, bytes32 channelId, bytes calldata data) external;
}
