// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IInferenceEscrow} from "./IInferenceEscrow.sol";
import {IWorkerRegistry} from "./IWorkerRegistry.sol";

/// @title IDisputeManager
/// @notice Judges what signatures alone can prove: receipts left out of settlement, and double signing.
/// @dev Judges no results of inference. Every slash burns half, so that slashing oneself never pays.
interface IDisputeManager {
    enum Status {
        None,
        Open,
        Answered,
        Upheld
    }

    /// @param answerBy unix seconds until which the gateway may prove inclusion.
    /// @param penalty taken from the gateway's reserve if it does not.
    struct Challenge {
        address challenger;
        address gateway;
        uint128 bond;
        uint128 penalty;
        uint64 answerBy;
        Status status;
    }

    event InclusionChallenged(
        bytes32 indexed receiptDigest,
        address indexed gateway,
        address indexed challenger,
        uint128 bond,
        uint64 answerBy
    );
    event InclusionAnswered(bytes32 indexed receiptDigest, address indexed gateway, uint64 epoch);
    event InclusionUpheld(
        bytes32 indexed receiptDigest, address indexed gateway, address indexed challenger, uint128 slashed
    );
    event WorkerEquivocation(
        address indexed worker, bytes32 indexed first, bytes32 indexed second, address reporter, uint128 slashed
    );
    event GatewayEquivocation(
        address indexed gateway, bytes32 indexed first, bytes32 indexed second, address reporter, uint128 slashed
    );

    error DisputeManagerZeroAddress();
    error DisputeManagerChallenged(bytes32 receiptDigest, Status status);
    error DisputeManagerNotOpen(bytes32 receiptDigest, Status status);
    error DisputeManagerTooEarly(uint256 earliest, uint256 timestamp);
    error DisputeManagerTooLate(uint64 answerBy, uint256 timestamp);
    error DisputeManagerInvalidSigner(address recovered, address expected);
    error DisputeManagerInvalidProof(bytes32 receiptDigest, uint64 epoch);
    error DisputeManagerNoConflict(bytes32 first, bytes32 second);
    error DisputeManagerJudged(bytes32 evidence);

    /// @notice Claims that a countersigned receipt is in no batch of its gateway, staking `bond` on it.
    /// @dev Earliest `window` after the receipt was served: until then its batch may still come. Once a receipt.
    /// Signatures of receipts are of the digest alone or of a `ReceiptBatch` with a proof, here and below.
    function challengeInclusion(
        IInferenceEscrow.Receipt calldata receipt,
        bytes calldata workerSignature,
        bytes calldata gatewaySignature
    ) external;

    /// @notice Shows the receipt in batch `epoch`; the bond goes to the gateway. Anyone may, until `answerBy`.
    function answerInclusion(bytes32 receiptDigest, uint64 epoch, bytes32[] calldata proof) external;

    /// @notice After `answerBy`: returns the bond and slashes the gateway's reserve by `bond + price`.
    function upholdInclusion(bytes32 receiptDigest) external;

    /// @notice Slashes a worker by `minStake` for two answers it signed to one question: same worker, model and input,
    /// same request id or same channel and number, different output. Once per question; half goes to the caller.
    /// @dev Model and input must agree, or a gateway could frame a worker by giving one number to two requests.
    function reportWorkerEquivocation(
        IInferenceEscrow.Receipt calldata first,
        bytes calldata firstSignature,
        IInferenceEscrow.Receipt calldata second,
        bytes calldata secondSignature
    ) external;

    /// @notice Slashes a gateway's reserve by `bond` and both prices for countersigning two different receipts with the
    /// same channel and number. Once per channel and number; half goes to the caller.
    function reportGatewayEquivocation(
        IInferenceEscrow.Receipt calldata first,
        bytes calldata firstSignature,
        IInferenceEscrow.Receipt calldata second,
        bytes calldata secondSignature
    ) external;

    function challenges(bytes32 receiptDigest) external view returns (Challenge memory);

    function escrow() external view returns (IInferenceEscrow);

    function workers() external view returns (IWorkerRegistry);

    /// @notice Bond of a challenge, and least penalty of a gateway, atomic token units.
    function bond() external view returns (uint128);

    /// @notice Seconds a gateway has to settle before it can be challenged, and again to answer.
    function window() external view returns (uint64);
}
