// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IERC3009} from "./interfaces/IERC3009.sol";
import {IInferenceEscrow} from "./interfaces/IInferenceEscrow.sol";
import {Slashing} from "./libraries/Slashing.sol";
import {TypedData} from "./libraries/TypedData.sol";

/// @title InferenceEscrow
/// @notice Specified in {IInferenceEscrow}.
contract InferenceEscrow is IInferenceEscrow, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Balance {
        uint128 deposited;
        uint128 settled;
    }

    struct Exit {
        uint128 amount;
        uint64 exitAt;
        uint64 refundNonce;
    }

    struct Gateway {
        uint128 reserve;
        uint64 lastEpoch;
        uint64 receiptCount;
    }

    struct Thaw {
        uint128 amount;
        uint64 thawedAt;
    }

    struct Payee {
        uint128 credited;
        uint128 withdrawn;
    }

    struct Note {
        uint128 cumulative;
        uint128 owed;
    }

    uint8 private constant ABOVE_VOUCHER = 1;
    uint8 private constant NOTHING_TO_SETTLE = 2;
    uint8 private constant WRONG_SIGNER = 3;
    /// @dev Receipt counts of six epochs share a slot, because a fresh slot costs more than settling a channel.
    uint256 private constant LANES = 6;
    uint256 private constant LANE_BITS = 40;
    uint256 private constant LANE_MASK = (1 << LANE_BITS) - 1;

    IERC20 private immutable _TOKEN;
    address private immutable _DEPLOYER;
    /// @inheritdoc IInferenceEscrow
    uint64 public immutable exitDelay;
    /// @inheritdoc IInferenceEscrow
    uint64 public immutable reserveThaw;

    /// @inheritdoc IInferenceEscrow
    address public disputeManager;
    mapping(bytes32 channelId => Balance) private _channels;
    mapping(bytes32 channelId => Exit) private _exits;
    mapping(address gateway => Gateway) private _gateways;
    mapping(address gateway => Thaw) private _thaws;
    mapping(address gateway => mapping(uint256 epoch => bytes32)) private _roots;
    mapping(address gateway => mapping(uint256 group => uint256)) private _receiptCounts;
    mapping(address gateway => mapping(address payee => Payee)) private _payees;
    mapping(address gateway => mapping(address payee => Note)) private _notes;
    /// @inheritdoc IInferenceEscrow
    mapping(address gateway => uint128) public arrears;

    constructor(address token_, uint64 exitDelay_, uint64 reserveThaw_) EIP712("InferenceEscrow", "1") {
        require(token_ != address(0), InferenceEscrowZeroAddress());
        _TOKEN = IERC20(token_);
        _DEPLOYER = msg.sender;
        exitDelay = exitDelay_;
        reserveThaw = reserveThaw_;
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
        uint128 amount = uint128(Math.min(exit.amount, _unclaimed(id)));
        _clearExit(id);
        emit ExitFinalized(id, amount, _channels[id].deposited -= amount);
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
        emit Refunded(id, nonce, amount, _channels[id].deposited -= amount);
        _pay(channel.payer, amount);
    }

    // -------------------------------------------------------------- settlement

    /// @inheritdoc IInferenceEscrow
    function settleBatch(
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        Debit[] calldata debits,
        Credit[] calldata payeeCredits
    ) external {
        _settle(msg.sender, epoch, receiptsRoot, count, debits, payeeCredits);
    }

    /// @inheritdoc IInferenceEscrow
    function settleBatchFor(
        address gateway,
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        Debit[] calldata debits,
        Credit[] calldata payeeCredits,
        bytes calldata signature
    ) external {
        _checkSigner(
            TypedData.hashSettleBatch(gateway, epoch, receiptsRoot, count, debits, payeeCredits), signature, gateway
        );
        _settle(gateway, epoch, receiptsRoot, count, debits, payeeCredits);
    }

    /// @dev Calls nothing but the ecrecover precompile, so it needs no reentrancy lock.
    function _settle(
        address gateway,
        uint64 epoch,
        bytes32 receiptsRoot,
        uint32 count,
        Debit[] calldata debits,
        Credit[] calldata payeeCredits
    ) private {
        Gateway memory state = _gateways[gateway];
        require(epoch == state.lastEpoch + 1, InferenceEscrowEpoch(epoch, state.lastEpoch + 1));
        uint256 debited = _debit(gateway, debits);
        uint256 credited = _credit(gateway, payeeCredits, debited, state.reserve);
        uint64 firstSeq = state.receiptCount;
        uint64 endSeq = firstSeq + count;
        _gateways[gateway] = Gateway((state.reserve + debited - credited).toUint128(), epoch, endSeq);
        _roots[gateway][epoch] = receiptsRoot;
        _receiptCounts[gateway][epoch / LANES] |= uint256(uint256(endSeq).toUint40()) << ((epoch % LANES) * LANE_BITS);
        emit BatchSettled(gateway, epoch, receiptsRoot, firstSeq, count, debited, credited);
    }

    function _debit(address gateway, Debit[] calldata debits) private returns (uint256 debited) {
        bytes32 separator = _domainSeparatorV4();
        for (uint256 i = 0; i < debits.length; ++i) {
            Debit calldata row = debits[i];
            bytes32 id = TypedData.digest(separator, TypedData.hashChannel(row.payer, row.signer, gateway, row.salt));
            Balance storage stored = _channels[id];
            Balance memory balance = stored;
            uint128 target = row.claimTotal < balance.deposited ? row.claimTotal : balance.deposited;
            if (row.claimTotal > row.voucherAmount) {
                emit DebitSkipped(id, ABOVE_VOUCHER);
            } else if (target <= balance.settled) {
                emit DebitSkipped(id, NOTHING_TO_SETTLE);
            } else {
                bytes32 digest = TypedData.digest(separator, TypedData.hashVoucher(id, row.voucherAmount));
                (address signer, ECDSA.RecoverError failed,) = ECDSA.tryRecover(digest, row.r, row.vs);
                if (failed != ECDSA.RecoverError.NoError || signer != row.signer) {
                    emit DebitSkipped(id, WRONG_SIGNER);
                } else {
                    stored.settled = target;
                    debited += target - balance.settled;
                    emit ChannelSettled(id, target);
                }
            }
        }
    }

    function _credit(address gateway, Credit[] calldata payeeCredits, uint256 debited, uint128 reserve)
        private
        returns (uint256 credited)
    {
        mapping(address => Payee) storage payees = _payees[gateway];
        uint256 available = debited;
        bool drawn = false;
        for (uint256 i = 0; i < payeeCredits.length; ++i) {
            Credit calldata row = payeeCredits[i];
            Payee storage payee = payees[row.payee];
            uint128 before = payee.credited;
            if (row.cumulative <= before) continue;
            uint256 amount = row.cumulative - before;
            if (amount > available - credited && !drawn) {
                drawn = true;
                available += _freeReserve(gateway, reserve);
            }
            if (amount > available - credited) {
                amount = available - credited;
                emit CreditShort(row.payee, before + uint128(amount), row.cumulative);
                if (amount == 0) continue;
            }
            payee.credited = before + uint128(amount);
            credited += amount;
        }
    }

    // ------------------------------------------------------------------ payees

    /// @inheritdoc IInferenceEscrow
    function withdraw(address gateway, address to, uint128 amount) external nonReentrant {
        Payee storage payee = _payees[gateway][msg.sender];
        uint128 available = payee.credited - payee.withdrawn;
        require(amount > 0, InferenceEscrowZeroAmount());
        require(amount <= available, InferenceEscrowInsufficientCredit(amount, available));
        emit Withdrawn(gateway, msg.sender, to, amount, payee.withdrawn += amount);
        _pay(to, amount);
    }

    /// @inheritdoc IInferenceEscrow
    function withdrawMany(address[] calldata gateways, address to) external nonReentrant {
        uint256 total = 0;
        for (uint256 i = 0; i < gateways.length; ++i) {
            Payee storage payee = _payees[gateways[i]][msg.sender];
            uint128 amount = payee.credited - payee.withdrawn;
            if (amount == 0) continue;
            total += amount;
            emit Withdrawn(gateways[i], msg.sender, to, amount, payee.withdrawn += amount);
        }
        require(total > 0, InferenceEscrowZeroAmount());
        _pay(to, total);
    }

    // ---------------------------------------------------------------- reserves

    /// @inheritdoc IInferenceEscrow
    function fundReserve(address gateway, uint128 amount) external nonReentrant {
        require(gateway != address(0), InferenceEscrowZeroAddress());
        require(amount > 0, InferenceEscrowZeroAmount());
        emit ReserveFunded(gateway, msg.sender, amount, _gateways[gateway].reserve += amount);
        _TOKEN.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IInferenceEscrow
    function thawReserve(uint128 amount) external {
        uint128 reserve = _gateways[msg.sender].reserve;
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
        Gateway storage state = _gateways[msg.sender];
        uint128 amount = uint128(Math.min(thaw.amount, _freeReserve(msg.sender, state.reserve)));
        delete _thaws[msg.sender];
        emit ReserveWithdrawn(msg.sender, to, amount, state.reserve -= amount);
        _pay(to, amount);
    }

    // ------------------------------------------------------ a gateway that is gone

    /// @inheritdoc IInferenceEscrow
    function claimWithReceipt(
        Channel calldata channel,
        uint128 voucherAmount,
        bytes calldata voucherSignature,
        Receipt calldata receipt,
        bytes calldata workerSignature,
        bytes calldata gatewaySignature
    ) external {
        bytes32 id = channelId(channel);
        require(receipt.channelId == id, InferenceEscrowChannelMismatch(receipt.channelId, id));
        require(receipt.gateway == channel.gateway, InferenceEscrowGatewayMismatch(receipt.gateway, channel.gateway));
        _checkSigner(TypedData.hashVoucher(id, voucherAmount), voucherSignature, channel.signer);
        bytes32 receiptHash = TypedData.hashReceipt(receipt);
        _checkSigner(receiptHash, workerSignature, receipt.worker);
        _checkSigner(receiptHash, gatewaySignature, receipt.gateway);

        Balance storage balance = _channels[id];
        uint128 settled = balance.settled;
        uint128 target = uint128(Math.min(Math.min(receipt.cumulative, voucherAmount), balance.deposited));
        require(target > settled, InferenceEscrowNothingToClaim(target, settled));
        balance.settled = target;
        uint128 reserve = _gateways[channel.gateway].reserve += target - settled;
        emit ChannelSettled(id, target);
        emit ReceiptClaimed(id, channel.gateway, _hashTypedDataV4(receiptHash), target - settled, reserve);
    }

    /// @inheritdoc IInferenceEscrow
    function redeemCreditNote(address gateway, address payee, uint128 cumulativeAmount, bytes calldata signature)
        external
    {
        Note memory note = _notes[gateway][payee];
        if (cumulativeAmount > note.cumulative) {
            _checkSigner(TypedData.hashCreditNote(gateway, payee, cumulativeAmount), signature, gateway);
            note.cumulative = cumulativeAmount;
        }
        uint128 credited = _payees[gateway][payee].credited;
        uint128 due = note.cumulative > credited ? note.cumulative - credited : 0;
        require(due > 0 || note.owed > 0, InferenceEscrowNothingToRedeem(note.cumulative, credited));

        Gateway storage state = _gateways[gateway];
        uint128 paid = uint128(Math.min(due, state.reserve));
        uint128 owed = due - paid;
        arrears[gateway] = arrears[gateway] + owed - note.owed;
        _notes[gateway][payee] = Note(note.cumulative, owed);
        _payees[gateway][payee].credited = credited + paid;
        emit NoteRedeemed(gateway, payee, paid, credited + paid, owed, state.reserve -= paid);
    }

    // ---------------------------------------------------------------- disputes

    /// @inheritdoc IInferenceEscrow
    function setDisputeManager(address disputeManager_) external {
        require(msg.sender == _DEPLOYER, InferenceEscrowNotDeployer(_DEPLOYER, msg.sender));
        require(disputeManager == address(0), InferenceEscrowDisputeManagerSet(disputeManager));
        require(disputeManager_ != address(0), InferenceEscrowZeroAddress());
        disputeManager = disputeManager_;
        emit DisputeManagerSet(disputeManager_);
    }

    /// @inheritdoc IInferenceEscrow
    function slashReserve(address gateway, uint128 amount, address beneficiary)
        external
        nonReentrant
        returns (uint128 slashed)
    {
        require(msg.sender == disputeManager, InferenceEscrowNotDisputeManager(disputeManager, msg.sender));
        Gateway storage state = _gateways[gateway];
        slashed = uint128(Math.min(amount, _freeReserve(gateway, state.reserve)));
        emit ReserveSlashed(gateway, beneficiary, slashed, state.reserve -= slashed);
        Slashing.pay(_TOKEN, slashed, beneficiary);
    }

    // ------------------------------------------------------------------- views

    /// @inheritdoc IInferenceEscrow
    function channelId(Channel calldata channel) public view returns (bytes32) {
        return _hashTypedDataV4(TypedData.hashChannel(channel.payer, channel.signer, channel.gateway, channel.salt));
    }

    /// @inheritdoc IInferenceEscrow
    function channels(bytes32 id)
        external
        view
        returns (uint128 deposited, uint128 settled, uint128 exitAmount, uint64 exitAt)
    {
        return (_channels[id].deposited, _channels[id].settled, _exits[id].amount, _exits[id].exitAt);
    }

    /// @inheritdoc IInferenceEscrow
    function refundNonce(bytes32 id) external view returns (uint64) {
        return _exits[id].refundNonce;
    }

    /// @inheritdoc IInferenceEscrow
    function lastEpoch(address gateway) external view returns (uint64) {
        return _gateways[gateway].lastEpoch;
    }

    /// @inheritdoc IInferenceEscrow
    function receiptCount(address gateway) external view returns (uint64) {
        return _gateways[gateway].receiptCount;
    }

    /// @inheritdoc IInferenceEscrow
    function settlements(address gateway, uint64 epoch)
        external
        view
        returns (bytes32 receiptsRoot, uint64 firstSeq, uint32 count)
    {
        if (epoch == 0 || epoch > _gateways[gateway].lastEpoch) return (0, 0, 0);
        firstSeq = _endSeq(gateway, epoch - 1);
        return (_roots[gateway][epoch], firstSeq, uint32(_endSeq(gateway, epoch) - firstSeq));
    }

    /// @inheritdoc IInferenceEscrow
    function credits(address gateway, address payee) external view returns (uint128 credited, uint128 withdrawn) {
        Payee storage stored = _payees[gateway][payee];
        return (stored.credited, stored.withdrawn);
    }

    /// @inheritdoc IInferenceEscrow
    function reserves(address gateway) external view returns (uint128 amount, uint128 thawingAmount, uint64 thawedAt) {
        return (_gateways[gateway].reserve, _thaws[gateway].amount, _thaws[gateway].thawedAt);
    }

    /// @inheritdoc IInferenceEscrow
    function notes(address gateway, address payee) external view returns (uint128 cumulative, uint128 owed) {
        return (_notes[gateway][payee].cumulative, _notes[gateway][payee].owed);
    }

    /// @inheritdoc IInferenceEscrow
    function verifyReceipt(address gateway, uint64 epoch, bytes32 digest, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        // Leaves are hashed twice, so that a 64-byte inner node can never be passed off as a leaf.
        return MerkleProof.verifyCalldata(
            proof, _roots[gateway][epoch], keccak256(bytes.concat(keccak256(abi.encode(digest))))
        );
    }

    /// @inheritdoc IInferenceEscrow
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32) {
        return _hashTypedDataV4(TypedData.hashReceipt(receipt));
    }

    /// @inheritdoc IInferenceEscrow
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc IInferenceEscrow
    function token() external view returns (address) {
        return address(_TOKEN);
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
        uint128 deposited = _channels[id].deposited += amount;
        emit ChannelFunded(id, channel.payer, channel.gateway, channel.signer, channel.salt, amount, deposited);
    }

    function _clearExit(bytes32 id) private {
        _exits[id].amount = 0;
        _exits[id].exitAt = 0;
    }

    function _pay(address to, uint256 amount) private {
        if (amount > 0) _TOKEN.safeTransfer(to, amount);
    }

    function _onlyPayer(Channel calldata channel) private view {
        require(msg.sender == channel.payer, InferenceEscrowNotPayer(channel.payer, msg.sender));
    }

    function _checkSigner(bytes32 structHash, bytes calldata signature, address expected) private view {
        address recovered = TypedData.recover(_hashTypedDataV4(structHash), signature);
        require(recovered == expected && recovered != address(0), InferenceEscrowInvalidSigner(recovered, expected));
    }

    function _unclaimed(bytes32 id) private view returns (uint128) {
        return _channels[id].deposited - _channels[id].settled;
    }

    /// @dev The part of a reserve that presented notes leave free.
    function _freeReserve(address gateway, uint128 reserve) private view returns (uint128) {
        return uint128(Math.saturatingSub(reserve, arrears[gateway]));
    }

    function _endSeq(address gateway, uint64 epoch) private view returns (uint64) {
        return uint64((_receiptCounts[gateway][epoch / LANES] >> ((epoch % LANES) * LANE_BITS)) & LANE_MASK);
    }
}
