// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IDisputeManager} from "./interfaces/IDisputeManager.sol";
import {IInferenceEscrow} from "./interfaces/IInferenceEscrow.sol";
import {IWorkerRegistry} from "./interfaces/IWorkerRegistry.sol";
import {TypedData} from "./libraries/TypedData.sol";

/// @title DisputeManager
/// @notice Specified in {IDisputeManager}.
contract DisputeManager is IDisputeManager, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    /// @inheritdoc IDisputeManager
    IInferenceEscrow public immutable escrow;
    /// @inheritdoc IDisputeManager
    IWorkerRegistry public immutable workers;
    IERC20 private immutable _TOKEN;
    /// @inheritdoc IDisputeManager
    uint128 public immutable bond;
    /// @inheritdoc IDisputeManager
    uint64 public immutable window;

    mapping(bytes32 receiptDigest => Challenge) private _challenges;
    mapping(bytes32 evidence => bool) private _judged;

    constructor(address escrow_, address workers_, address token_, uint128 bond_, uint64 window_) {
        require(escrow_ != address(0) && workers_ != address(0) && token_ != address(0), DisputeManagerZeroAddress());
        escrow = IInferenceEscrow(escrow_);
        workers = IWorkerRegistry(workers_);
        _TOKEN = IERC20(token_);
        bond = bond_;
        window = window_;
    }

    /// @inheritdoc IDisputeManager
    function challengeInclusion(
        IInferenceEscrow.Receipt calldata receipt,
        bytes calldata workerSignature,
        bytes calldata gatewaySignature
    ) external nonReentrant {
        bytes32 digest = escrow.receiptDigest(receipt);
        _checkSigner(digest, workerSignature, receipt.worker);
        _checkSigner(digest, gatewaySignature, receipt.gateway);
        uint256 earliest = uint256(receipt.servedAt) + window;
        require(block.timestamp >= earliest, DisputeManagerTooEarly(earliest, block.timestamp));
        Status status = _challenges[digest].status;
        require(status == Status.None, DisputeManagerChallenged(digest, status));

        uint64 answerBy = (block.timestamp + window).toUint64();
        _challenges[digest] = Challenge({
            challenger: msg.sender,
            gateway: receipt.gateway,
            bond: bond,
            penalty: bond + receipt.price,
            answerBy: answerBy,
            status: Status.Open
        });
        emit InclusionChallenged(digest, receipt.gateway, msg.sender, bond, answerBy);
        _TOKEN.safeTransferFrom(msg.sender, address(this), bond);
    }

    /// @inheritdoc IDisputeManager
    function answerInclusion(bytes32 receiptDigest, uint64 epoch, bytes32[] calldata proof) external nonReentrant {
        Challenge storage challenge = _open(receiptDigest);
        require(block.timestamp <= challenge.answerBy, DisputeManagerTooLate(challenge.answerBy, block.timestamp));
        require(
            escrow.verifyReceipt(challenge.gateway, epoch, receiptDigest, proof),
            DisputeManagerInvalidProof(receiptDigest, epoch)
        );
        challenge.status = Status.Answered;
        emit InclusionAnswered(receiptDigest, challenge.gateway, epoch);
        _TOKEN.safeTransfer(challenge.gateway, challenge.bond);
    }

    /// @inheritdoc IDisputeManager
    function upholdInclusion(bytes32 receiptDigest) external nonReentrant {
        Challenge storage challenge = _open(receiptDigest);
        require(block.timestamp > challenge.answerBy, DisputeManagerTooEarly(challenge.answerBy, block.timestamp));
        challenge.status = Status.Upheld;
        _TOKEN.safeTransfer(challenge.challenger, challenge.bond);
        uint128 slashed = escrow.slashReserve(challenge.gateway, challenge.penalty, challenge.challenger);
        emit InclusionUpheld(receiptDigest, challenge.gateway, challenge.challenger, slashed);
    }

    /// @inheritdoc IDisputeManager
    function reportWorkerEquivocation(
        IInferenceEscrow.Receipt calldata first,
        bytes calldata firstSignature,
        IInferenceEscrow.Receipt calldata second,
        bytes calldata secondSignature
    ) external nonReentrant {
        (bytes32 a, bytes32 b) = (escrow.receiptDigest(first), escrow.receiptDigest(second));
        bool sameRequest = first.requestId == second.requestId;
        require(
            first.worker == second.worker && first.modelId == second.modelId && first.inputHash == second.inputHash
                && first.outputHash != second.outputHash && (sameRequest || _sameNumber(first, second)),
            DisputeManagerNoConflict(a, b)
        );
        _checkSigner(a, firstSignature, first.worker);
        _checkSigner(b, secondSignature, first.worker);
        _judge(
            sameRequest
                ? keccak256(abi.encode("request", first.worker, first.requestId))
                : keccak256(abi.encode("number", first.worker, first.channelId, first.seq))
        );
        uint128 slashed = workers.slash(first.worker, workers.minStake(), msg.sender);
        emit WorkerEquivocation(first.worker, a, b, msg.sender, slashed);
    }

    /// @inheritdoc IDisputeManager
    function reportGatewayEquivocation(
        IInferenceEscrow.Receipt calldata first,
        bytes calldata firstSignature,
        IInferenceEscrow.Receipt calldata second,
        bytes calldata secondSignature
    ) external nonReentrant {
        (bytes32 a, bytes32 b) = (escrow.receiptDigest(first), escrow.receiptDigest(second));
        require(a != b && first.gateway == second.gateway && _sameNumber(first, second), DisputeManagerNoConflict(a, b));
        _checkSigner(a, firstSignature, first.gateway);
        _checkSigner(b, secondSignature, first.gateway);
        _judge(keccak256(abi.encode("gateway", first.gateway, first.channelId, first.seq)));
        uint256 penalty = uint256(bond) + first.price + second.price;
        uint128 slashed = escrow.slashReserve(first.gateway, penalty.toUint128(), msg.sender);
        emit GatewayEquivocation(first.gateway, a, b, msg.sender, slashed);
    }

    /// @inheritdoc IDisputeManager
    function challenges(bytes32 receiptDigest) external view returns (Challenge memory) {
        return _challenges[receiptDigest];
    }

    function _judge(bytes32 evidence) private {
        require(!_judged[evidence], DisputeManagerJudged(evidence));
        _judged[evidence] = true;
    }

    function _open(bytes32 receiptDigest) private view returns (Challenge storage challenge) {
        challenge = _challenges[receiptDigest];
        require(challenge.status == Status.Open, DisputeManagerNotOpen(receiptDigest, challenge.status));
    }

    function _sameNumber(IInferenceEscrow.Receipt calldata first, IInferenceEscrow.Receipt calldata second)
        private
        pure
        returns (bool)
    {
        return first.channelId == second.channelId && first.seq == second.seq;
    }

    function _checkSigner(bytes32 digest, bytes calldata signature, address expected) private view {
        address recovered = TypedData.recoverReceipt(escrow.domainSeparator(), digest, signature);
        require(recovered == expected && recovered != address(0), DisputeManagerInvalidSigner(recovered, expected));
    }
}
