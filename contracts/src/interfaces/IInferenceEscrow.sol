// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IInferenceEscrow
/// @notice The one contract that holds money: channels from payers to gateways, settlement batches with the Merkle root
/// of the receipts they pay for, credit of payees (workers' operators, model owners), and gateways' reserves.
/// @dev Amounts are atomic units of `token`, which must be a plain ERC-20: no fee on transfer, no rebase.
/// Signatures are EIP-712 in the domain (`InferenceEscrow`, `1`, chain id, this contract) and come from plain keys only
/// (ecrecover, low s): a contract's signature can be revoked after the work is done.
/// There is no owner, no proxy and no pause. Nobody but a channel's gateway, or a holder of a receipt that gateway
/// countersigned, can move `settled`, and never above a voucher of the channel's signer.
/// Trust between gateway and payees: a batch is the gateway's word, so what a gateway owes beyond its last settlement is
/// covered by its reserve and by nothing else. Payees bound it by the credit they give.
interface IInferenceEscrow {
    /// @notice Preimage of a channel id. The gateway is part of it, so gateways cannot spend each other's channels.
    struct Channel {
        address payer;
        address signer;
        address gateway;
        uint64 salt;
    }

    /// @notice What a worker signs and the gateway countersigns for one answered request.
    /// @param seq reservation number within the channel; may have gaps, never repeats.
    /// @param cumulative the channel's charges including this request.
    struct Receipt {
        bytes32 requestId;
        bytes32 channelId;
        address payer;
        address gateway;
        uint64 seq;
        address worker;
        bytes32 modelId;
        bytes32 inputHash;
        bytes32 outputHash;
        uint128 price;
        uint128 workerAmount;
        uint128 ownerAmount;
        uint128 cumulative;
        uint64 servedAt;
    }

    /// @notice One channel's row of a batch; the batch's gateway completes the channel's preimage.
    /// @param claimTotal what `settled` shall become; at most `voucherAmount`.
    /// @param voucherAmount cumulative ceiling that the channel's signer signed.
    /// @param r,vs the voucher's signature in the compact form of EIP-2098.
    struct Debit {
        address payer;
        address signer;
        uint64 salt;
        uint128 claimTotal;
        uint128 voucherAmount;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice One payee's row of a batch.
    /// @param cumulative all that the gateway has ever owed the payee, so repeating a row cannot pay twice.
    struct Credit {
        address payee;
        uint128 cumulative;
    }

    // ------------------------------------------------------------------ events

    /// @notice `deposited` is the channel's new total.
    event ChannelFunded(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed gateway,
        address signer,
        uint64 salt,
        uint128 amount,
        uint128 deposited
    );
    event ExitInitiated(bytes32 indexed channelId, uint128 amount, uint64 exitAt);
    event ExitCancelled(bytes32 indexed channelId);
    /// @notice `amount` went to the payer; `deposited` is what the channel's total fell to.
    event ExitFinalized(bytes32 indexed channelId, uint128 amount, uint128 deposited);
    /// @notice `amount` went to the payer by consent of the gateway; `deposited` is what the channel's total fell to.
    event Refunded(bytes32 indexed channelId, uint64 nonce, uint128 amount, uint128 deposited);
    /// @notice `settled` is the channel's new total.
    event ChannelSettled(bytes32 indexed channelId, uint128 settled);
    /// @notice Reasons: 1 claim above its voucher, 2 nothing left to settle, 3 signature not by the channel's signer.
    event DebitSkipped(bytes32 indexed channelId, uint8 reason);
    /// @notice Money ran out before this row: the payee stands at `credited` and is owed `cumulative`.
    event CreditShort(address indexed payee, uint128 credited, uint128 cumulative);
    /// @notice Receipts `firstSeq` to `firstSeq + count - 1` of the gateway are under `receiptsRoot`.
    event BatchSettled(
        address indexed gateway,
        uint64 indexed epoch,
        bytes32 receiptsRoot,
        uint64 firstSeq,
        uint32 count,
        uint256 debited,
        uint256 credited
    );
    /// @notice `withdrawn` is the payee's new total at this gateway.
    event Withdrawn(
        address indexed gateway, address indexed payee, address indexed to, uint128 amount, uint128 withdrawn
    );
    /// @notice `reserve` is the gateway's new total, here and below.
    event ReserveFunded(address indexed gateway, address indexed from, uint128 amount, uint128 reserve);
    event ReserveThawing(address indexed gateway, uint128 thawing, uint64 thawedAt);
    event ReserveWithdrawn(address indexed gateway, address indexed to, uint128 amount, uint128 reserve);
    event ReserveSlashed(address indexed gateway, address indexed beneficiary, uint128 amount, uint128 reserve);
    /// @notice A receipt moved `amount` from the channel to the gateway's reserve.
    event ReceiptClaimed(
        bytes32 indexed channelId, address indexed gateway, bytes32 receiptDigest, uint128 amount, uint128 reserve
    );
    /// @notice `paid` was credited; the payee stands at `credited` and `owed` waits for the reserve to fill.
    event NoteRedeemed(
        address indexed gateway, address indexed payee, uint128 paid, uint128 credited, uint128 owed, uint128 reserve
    );
    event DisputeManagerSet(address indexed disputeManager);

    // ------------------------------------------------------------------ errors

    error InferenceEscrowZeroAddress();
    error InferenceEscrowZeroAmount();
    error InferenceEscrowNotPayer(address payer, address caller);
    error InferenceEscrowNotDeployer(address deployer, address caller);
    error InferenceEscrowNotDisputeManager(address disputeManager, address caller);
    error InferenceEscrowDisputeManagerSet(address disputeManager);
    error InferenceEscrowExitPending(uint128 amount, uint64 exitAt);
    error InferenceEscrowNoExit(bytes32 channelId);
    error InferenceEscrowExitNotReady(uint64 exitAt, uint256 timestamp);
    error InferenceEscrowInsufficientUnclaimed(uint128 amount, uint128 unclaimed);
    error InferenceEscrowRefundNonce(uint64 nonce, uint64 expected);
    error InferenceEscrowInvalidSigner(address recovered, address expected);
    error InferenceEscrowEpoch(uint64 epoch, uint64 expected);
    error InferenceEscrowInsufficientCredit(uint128 amount, uint128 available);
    error InferenceEscrowInsufficientReserve(uint128 amount, uint128 available);
    error InferenceEscrowReserveNotThawed(uint64 thawedAt, uint256 timestamp);
    error InferenceEscrowNothingThawing(address gateway);
    error InferenceEscrowNothingToClaim(uint128 claimable, uint128 settled);
    error InferenceEscrowNothingToRedeem(uint128 cumulative, uint128 credited);
    error InferenceEscrowChannelMismatch(bytes32 channelId, bytes32 expected);
    error InferenceEscrowGatewayMismatch(address gateway, address expected);

    // ---------------------------------------------------------------- channels

    /// @notice Adds `amount` from the caller to a channel, creating it if need be. Anyone may fund any channel; only its
    /// payer ever gets unclaimed money back.
    /// @dev If an exit is pending it is first cut to what was unclaimed before this deposit, so new money is not exiting.
    function deposit(Channel calldata channel, uint128 amount) external;

    /// @notice As `deposit`, with an EIP-2612 permit of the caller. A permit that was already used, or front-run, is
    /// ignored as long as the allowance is there.
    function depositWithPermit(
        Channel calldata channel,
        uint128 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Deposits from the channel's payer by an EIP-3009 authorization that anyone may relay.
    /// @dev The authorization's nonce must be `keccak256(abi.encode(channelId, nonceSalt))`, so a relayer cannot send the
    /// money to another channel.
    function depositWithAuthorization(
        Channel calldata channel,
        uint128 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonceSalt,
        bytes calldata signature
    ) external;

    /// @notice Payer only: announces that `amount` of the unclaimed deposit leaves after `exitDelay`. One at a time.
    /// @dev Gateways must settle on seeing it; what they settle until `finalizeExit` comes off first.
    function initiateExit(Channel calldata channel, uint128 amount) external;

    /// @notice Payer only: takes a pending exit back.
    function cancelExit(Channel calldata channel) external;

    /// @notice Pays a matured exit to the payer: the announced amount, or what is unclaimed if that is less. Anyone may
    /// call it; it never fails because nothing is left.
    function finalizeExit(Channel calldata channel) external;

    /// @notice Pays `amount` of the unclaimed deposit to the payer at once, by consent of the gateway.
    /// @param nonce must be the channel's `refundNonce`, which counts up from zero.
    function refund(Channel calldata channel, uint64 nonce, uint128 amount, bytes calldata gatewaySignature) external;

    // -------------------------------------------------------------- settlement

    /// @notice Settles for the calling gateway: debits channels, credits payees, records the receipts' root.
    /// @dev Only a wrong `epoch` reverts. A debit row pays `min(claimTotal, deposited) - settled`, or is skipped with
    /// `DebitSkipped`; repeated and foreign rows are skipped. Credit rows raise the payee's total to `cumulative` in the
    /// order given while money lasts, i.e. debits of this batch plus the part of the reserve that no presented note has
    /// claimed; a row that is not higher than the payee's total does nothing. What is debited and not credited goes to
    /// the reserve, what is credited and not debited comes from it.
    /// @param epoch one more than `lastEpoch(gateway)`; the first is 1.
    /// @param receiptsRoot root of the OpenZeppelin standard tree of the receipts' digests; not checked here.
    /// @param count number of leaves.
    function settleBatch(
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        Debit[] calldata debits,
        Credit[] calldata payeeCredits
    ) external;

    /// @notice As `settleBatch`, relayed by anyone with the gateway's signature of
    /// `SettleBatch(gateway, epoch, receiptsRoot, count, debitsHash, creditsHash)`.
    /// @dev `debitsHash` is keccak256 of the concatenated `abi.encode(debits[i])`, seven words a row; `creditsHash` the
    /// same with two words a row. No rows hash to keccak256 of nothing.
    function settleBatchFor(
        address gateway,
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        Debit[] calldata debits,
        Credit[] calldata payeeCredits,
        bytes calldata signature
    ) external;

    // ------------------------------------------------------------------ payees

    /// @notice Pays `amount` of the caller's credit at `gateway` to `to`.
    function withdraw(address gateway, address to, uint128 amount) external;

    /// @notice Pays all of the caller's credit at each of `gateways` to `to`; a gateway with none is passed over.
    function withdrawMany(address[] calldata gateways, address to) external;

    // ---------------------------------------------------------------- reserves

    /// @notice Adds `amount` from the caller to the reserve of `gateway`.
    function fundReserve(address gateway, uint128 amount) external;

    /// @notice Announces that `amount` of the caller's reserve leaves after `reserveThaw`. Replaces an earlier
    /// announcement and restarts its clock; zero takes it back. A thawing reserve still covers debts.
    function thawReserve(uint128 amount) external;

    /// @notice Pays the thawed amount to `to`, or what is left if debts ate into it; presented notes come first.
    function withdrawReserve(address to) external;

    // ------------------------------------------------------ a gateway that is gone

    /// @notice Moves the charges up to `receipt.cumulative` from a channel to its gateway's reserve, without the gateway.
    /// @dev Needs the voucher of the channel's signer and the receipt signed by the worker's key and countersigned by the
    /// gateway; each of the two may be a signature of the receipt's digest, or of a `ReceiptBatch` followed by the proof
    /// of the digest, so that many receipts cost one signature. Moves `settled` to `min(receipt.cumulative, voucherAmount, deposited)`, never to an unused ceiling.
    function claimWithReceipt(
        Channel calldata channel,
        uint128 voucherAmount,
        bytes calldata voucherSignature,
        Receipt calldata receipt,
        bytes calldata workerSignature,
        bytes calldata gatewaySignature
    ) external;

    /// @notice Credits `payee` up to a CreditNote's `cumulativeAmount` from the reserve; anyone may present it.
    /// @dev If the reserve is short the rest is remembered: it bars that much of the reserve from leaving or from paying
    /// later batches, and is paid by calling again. A total not above one already presented needs no signature. A call
    /// that finds the payee already credited clears what was remembered.
    function redeemCreditNote(address gateway, address payee, uint128 cumulativeAmount, bytes calldata signature)
        external;

    // ---------------------------------------------------------------- disputes

    /// @notice Deployer only, once: names the contract that may slash reserves. Until then nobody can.
    function setDisputeManager(address manager) external;

    /// @notice Dispute manager only: takes up to `amount` from a reserve, half of it (rounded down) to `beneficiary`, the
    /// rest out of circulation. What presented notes claim cannot be slashed.
    /// @return slashed what was taken.
    function slashReserve(address gateway, uint128 amount, address beneficiary) external returns (uint128 slashed);

    // ------------------------------------------------------------------- views

    /// @notice Id of a channel: the EIP-712 digest of its preimage.
    function channelId(Channel calldata channel) external view returns (bytes32);

    /// @notice `deposited` falls only by exits and refunds, `settled` never; the rest is `deposited - settled`.
    /// `exitAt` is when a pending exit matures, unix seconds; zero if none.
    function channels(bytes32 id)
        external
        view
        returns (uint128 deposited, uint128 settled, uint128 exitAmount, uint64 exitAt);

    /// @notice Nonce that the channel's next refund must carry.
    function refundNonce(bytes32 id) external view returns (uint64);

    /// @notice Number of the gateway's newest batch; zero before the first.
    function lastEpoch(address gateway) external view returns (uint64);

    /// @notice Receipts that the gateway has settled in all.
    function receiptCount(address gateway) external view returns (uint64);

    /// @notice Root of the gateway's batch `epoch`; zero if there is no such batch.
    /// @dev The range of receipt numbers it covers is in `BatchSettled` only: a second slot a batch would cost more than
    /// settling a channel does. Ranges join without gaps because the contract itself counts them.
    function settlements(address gateway, uint64 epoch) external view returns (bytes32 receiptsRoot);

    /// @notice Totals of a payee at a gateway; `credited - withdrawn` can be withdrawn.
    function credits(address gateway, address payee) external view returns (uint128 credited, uint128 withdrawn);

    /// @notice `amount` is all of the reserve; `thawingAmount` of it may leave at `thawedAt` (unix seconds, zero if none).
    function reserves(address gateway) external view returns (uint128 amount, uint128 thawingAmount, uint64 thawedAt);

    /// @notice Highest note total presented for a payee, and how much of it the reserve still owes.
    function notes(address gateway, address payee) external view returns (uint128 cumulative, uint128 owed);

    /// @notice Sum of what presented notes still claim from the gateway's reserve.
    function arrears(address gateway) external view returns (uint128);

    /// @notice Whether receipt digest `digest` is a leaf under the root of the gateway's batch `epoch`.
    function verifyReceipt(address gateway, uint64 epoch, bytes32 digest, bytes32[] calldata proof)
        external
        view
        returns (bool);

    /// @notice EIP-712 digest of a receipt, which the worker and the gateway sign.
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32);

    function domainSeparator() external view returns (bytes32);

    function token() external view returns (address);

    /// @notice Seconds between announcing an exit and its payment.
    function exitDelay() external view returns (uint64);

    /// @notice Seconds between announcing a withdrawal from a reserve and its payment.
    function reserveThaw() external view returns (uint64);

    function disputeManager() external view returns (address);
}
