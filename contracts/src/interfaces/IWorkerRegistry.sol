// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IWorkerRegistry
/// @notice Stake and metadata of workers. A worker is a key; the operator that registered it stakes, is paid and decides.
/// @dev Stake leaves only after `thawPeriod`, which must be longer than a dispute takes; thawing stake can be slashed.
/// Signatures are in the escrow's EIP-712 domain, so one domain serves the whole market.
interface IWorkerRegistry {
    /// @param operator account that registered the worker; zero if the key was never registered.
    /// @param stake all that is staked, thawing or not.
    /// @param thawing part of the stake that leaves at `thawedAt` (unix seconds, zero if none).
    /// @param registeredAt unix seconds of the latest registration.
    /// @param registered false before registration and after `deregister`.
    /// @param active registered and with `stake - thawing` at least `minStake`.
    struct Worker {
        address operator;
        uint128 stake;
        uint128 thawing;
        uint64 thawedAt;
        uint64 registeredAt;
        bool registered;
        bool active;
    }

    event WorkerRegistered(
        address indexed worker, address indexed operator, uint128 stake, string region, string hardware, string endpoint
    );
    event WorkerMetadata(address indexed worker, string region, string hardware, string endpoint);
    /// @notice `stake` is the worker's new total, here and below.
    event StakeAdded(address indexed worker, address indexed from, uint128 amount, uint128 stake);
    event StakeThawing(address indexed worker, uint128 thawing, uint64 thawedAt, uint128 stake);
    event StakeWithdrawn(address indexed worker, address indexed to, uint128 amount, uint128 stake);
    event WorkerDeregistered(address indexed worker, uint128 stake, uint64 thawedAt);
    /// @notice `thawing` is what is left of a pending thaw.
    event WorkerSlashed(
        address indexed worker, address indexed beneficiary, uint128 amount, uint128 stake, uint128 thawing
    );
    event SessionAuthorized(address indexed worker, address indexed sessionKey, uint64 expiry);
    event SessionRevoked(address indexed worker, address indexed sessionKey);
    event DisputeManagerSet(address indexed disputeManager);

    error WorkerRegistryZeroAddress();
    error WorkerRegistryZeroAmount();
    error WorkerRegistryNotOperator(address operator, address caller);
    error WorkerRegistryNotDisputeManager(address disputeManager, address caller);
    error WorkerRegistryNotDeployer(address deployer, address caller);
    error WorkerRegistryDisputeManagerSet(address disputeManager);
    error WorkerRegistryRegistered(address worker, address operator);
    error WorkerRegistryNotRegistered(address worker);
    error WorkerRegistryInsufficientStake(uint128 stake, uint128 required);
    error WorkerRegistryConsentExpired(uint64 deadline, uint256 timestamp);
    error WorkerRegistryInvalidSigner(address recovered, address expected);
    error WorkerRegistryNothingThawing(address worker);
    error WorkerRegistryNotThawed(uint64 thawedAt, uint256 timestamp);
    error WorkerRegistrySessionExpired(uint64 expiry, uint256 timestamp);
    error WorkerRegistryUnknownSession(address worker, address sessionKey);

    /// @notice Registers `worker` under the calling operator with `stake`, at least `minStake`.
    /// @dev A key that deregistered may register again, but only with its first operator, so that its stake keeps one
    /// owner. Stake still thawing stays and counts.
    /// @param workerConsent the worker key's signature of `WorkerConsent(operator, worker, deadline)`; empty if the
    /// worker registers itself.
    /// @param endpoint where the worker's queue is found; free text, may be empty.
    function register(
        address worker,
        uint128 stake,
        string calldata region,
        string calldata hardware,
        string calldata endpoint,
        uint64 deadline,
        bytes calldata workerConsent
    ) external;

    /// @notice Adds stake from the caller; anyone may, for any registered worker.
    function addStake(address worker, uint128 amount) external;

    /// @notice Operator only.
    function updateMetadata(address worker, string calldata region, string calldata hardware, string calldata endpoint)
        external;

    /// @notice Operator only: announces that `amount` of the stake leaves after `thawPeriod`. Replaces an earlier
    /// announcement and restarts its clock; zero takes it back.
    function thaw(address worker, uint128 amount) external;

    /// @notice Operator only: pays the thawed stake, less what was slashed meanwhile, to the operator.
    function withdrawStake(address worker) external;

    /// @notice Operator only: takes the worker off the market and starts thawing all of its stake.
    function deregister(address worker) external;

    /// @notice Dispute manager only: takes up to `amount` of the stake, half of it (rounded down) to `beneficiary`, the
    /// rest out of circulation.
    /// @return slashed what was taken.
    function slash(address worker, uint128 amount, address beneficiary) external returns (uint128 slashed);

    /// @notice Lets `sessionKey` speak for the worker until `expiry`, so that the worker's key can stay cold. Anyone may
    /// relay the worker key's signature of `WorkerSession(worker, sessionKey, expiry)`.
    /// @dev Receipts are always signed by the worker's own key. An earlier signature, sent again by anybody, neither
    /// shortens a session nor brings a revoked one back; `revokeSession` alone ends it before its time.
    function authorizeSession(address worker, address sessionKey, uint64 expiry, bytes calldata signature) external;

    /// @notice Worker or its operator: ends a session at once.
    function revokeSession(address worker, address sessionKey) external;

    /// @notice Deployer only, once: names the contract that may slash stake. Until then nobody can.
    function setDisputeManager(address manager) external;

    function workers(address worker) external view returns (Worker memory);

    function isActive(address worker) external view returns (bool);

    /// @notice Unix seconds until which `sessionKey` speaks for `worker`; zero if it does not.
    function sessionExpiry(address worker, address sessionKey) external view returns (uint64);

    function minStake() external view returns (uint128);

    /// @notice Seconds between announcing a withdrawal of stake and its payment.
    function thawPeriod() external view returns (uint64);

    function token() external view returns (address);

    /// @notice Escrow whose EIP-712 domain the signatures are in.
    function escrow() external view returns (address);

    function disputeManager() external view returns (address);
}
