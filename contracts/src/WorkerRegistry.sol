// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IInferenceEscrow} from "./interfaces/IInferenceEscrow.sol";
import {IWorkerRegistry} from "./interfaces/IWorkerRegistry.sol";
import {Slashing} from "./libraries/Slashing.sol";
import {TypedData} from "./libraries/TypedData.sol";

/// @title WorkerRegistry
/// @notice Specified in {IWorkerRegistry}.
contract WorkerRegistry is IWorkerRegistry, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Stake {
        address operator;
        uint64 registeredAt;
        bool registered;
        uint128 amount;
        uint128 thawing;
        uint64 thawedAt;
    }

    IERC20 private immutable _TOKEN;
    address private immutable _DEPLOYER;
    /// @inheritdoc IWorkerRegistry
    address public immutable escrow;
    /// @inheritdoc IWorkerRegistry
    uint128 public immutable minStake;
    /// @inheritdoc IWorkerRegistry
    uint64 public immutable thawPeriod;

    /// @inheritdoc IWorkerRegistry
    address public disputeManager;
    mapping(address worker => Stake) private _stakes;
    mapping(address worker => mapping(address sessionKey => uint64)) private _sessions;
    mapping(address worker => mapping(address sessionKey => uint64)) private _revoked;

    constructor(address token_, address escrow_, uint128 minStake_, uint64 thawPeriod_) {
        require(token_ != address(0) && escrow_ != address(0), WorkerRegistryZeroAddress());
        _TOKEN = IERC20(token_);
        _DEPLOYER = msg.sender;
        escrow = escrow_;
        minStake = minStake_;
        thawPeriod = thawPeriod_;
    }

    /// @inheritdoc IWorkerRegistry
    function register(
        address worker,
        uint128 stake,
        string calldata region,
        string calldata hardware,
        string calldata endpoint,
        uint64 deadline,
        bytes calldata workerConsent
    ) external nonReentrant {
        require(worker != address(0), WorkerRegistryZeroAddress());
        require(stake >= minStake, WorkerRegistryInsufficientStake(stake, minStake));
        require(block.timestamp <= deadline, WorkerRegistryConsentExpired(deadline, block.timestamp));
        if (msg.sender != worker) {
            _checkSigner(TypedData.hashWorkerConsent(msg.sender, worker, deadline), workerConsent, worker);
        }
        Stake storage entry = _stakes[worker];
        require(
            !entry.registered && (entry.operator == address(0) || entry.operator == msg.sender),
            WorkerRegistryRegistered(worker, entry.operator)
        );
        entry.operator = msg.sender;
        entry.registered = true;
        entry.registeredAt = block.timestamp.toUint64();
        entry.amount += stake;
        emit WorkerRegistered(worker, msg.sender, entry.amount, region, hardware, endpoint);
        _TOKEN.safeTransferFrom(msg.sender, address(this), stake);
    }

    /// @inheritdoc IWorkerRegistry
    function addStake(address worker, uint128 amount) external nonReentrant {
        Stake storage entry = _stakes[worker];
        require(entry.registered, WorkerRegistryNotRegistered(worker));
        require(amount > 0, WorkerRegistryZeroAmount());
        emit StakeAdded(worker, msg.sender, amount, entry.amount += amount);
        _TOKEN.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IWorkerRegistry
    function updateMetadata(address worker, string calldata region, string calldata hardware, string calldata endpoint)
        external
    {
        require(_owned(worker).registered, WorkerRegistryNotRegistered(worker));
        emit WorkerMetadata(worker, region, hardware, endpoint);
    }

    /// @inheritdoc IWorkerRegistry
    function thaw(address worker, uint128 amount) external {
        Stake storage entry = _owned(worker);
        require(amount <= entry.amount, WorkerRegistryInsufficientStake(entry.amount, amount));
        _thaw(worker, entry, amount);
    }

    /// @inheritdoc IWorkerRegistry
    function withdrawStake(address worker) external nonReentrant {
        Stake storage entry = _owned(worker);
        require(entry.thawing > 0, WorkerRegistryNothingThawing(worker));
        require(block.timestamp >= entry.thawedAt, WorkerRegistryNotThawed(entry.thawedAt, block.timestamp));
        uint128 amount = entry.thawing;
        entry.thawing = 0;
        entry.thawedAt = 0;
        emit StakeWithdrawn(worker, msg.sender, amount, entry.amount -= amount);
        _TOKEN.safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IWorkerRegistry
    function deregister(address worker) external {
        Stake storage entry = _owned(worker);
        require(entry.registered, WorkerRegistryNotRegistered(worker));
        entry.registered = false;
        _thaw(worker, entry, entry.amount);
        emit WorkerDeregistered(worker, entry.amount, entry.thawedAt);
    }

    /// @inheritdoc IWorkerRegistry
    function slash(address worker, uint128 amount, address beneficiary)
        external
        nonReentrant
        returns (uint128 slashed)
    {
        require(msg.sender == disputeManager, WorkerRegistryNotDisputeManager(disputeManager, msg.sender));
        Stake storage entry = _stakes[worker];
        slashed = uint128(Math.min(amount, entry.amount));
        uint128 left = entry.amount - slashed;
        entry.amount = left;
        if (entry.thawing > left) entry.thawing = left;
        emit WorkerSlashed(worker, beneficiary, slashed, left, entry.thawing);
        Slashing.pay(_TOKEN, slashed, beneficiary);
    }

    /// @inheritdoc IWorkerRegistry
    function authorizeSession(address worker, address sessionKey, uint64 expiry, bytes calldata signature) external {
        require(sessionKey != address(0), WorkerRegistryZeroAddress());
        require(expiry > block.timestamp, WorkerRegistrySessionExpired(expiry, block.timestamp));
        require(
            expiry > _revoked[worker][sessionKey] && expiry >= _sessions[worker][sessionKey],
            WorkerRegistrySessionExpired(expiry, block.timestamp)
        );
        require(_stakes[worker].registered, WorkerRegistryNotRegistered(worker));
        _checkSigner(TypedData.hashWorkerSession(worker, sessionKey, expiry), signature, worker);
        _sessions[worker][sessionKey] = expiry;
        emit SessionAuthorized(worker, sessionKey, expiry);
    }

    /// @inheritdoc IWorkerRegistry
    function revokeSession(address worker, address sessionKey) external {
        if (msg.sender != worker) _owned(worker);
        uint64 expiry = _sessions[worker][sessionKey];
        require(expiry != 0, WorkerRegistryUnknownSession(worker, sessionKey));
        _revoked[worker][sessionKey] = expiry;
        _sessions[worker][sessionKey] = 0;
        emit SessionRevoked(worker, sessionKey);
    }

    /// @inheritdoc IWorkerRegistry
    function setDisputeManager(address manager) external {
        require(msg.sender == _DEPLOYER, WorkerRegistryNotDeployer(_DEPLOYER, msg.sender));
        require(disputeManager == address(0), WorkerRegistryDisputeManagerSet(disputeManager));
        require(manager != address(0), WorkerRegistryZeroAddress());
        disputeManager = manager;
        emit DisputeManagerSet(manager);
    }

    /// @inheritdoc IWorkerRegistry
    function workers(address worker) external view returns (Worker memory) {
        Stake memory entry = _stakes[worker];
        return Worker({
            operator: entry.operator,
            stake: entry.amount,
            thawing: entry.thawing,
            thawedAt: entry.thawedAt,
            registeredAt: entry.registeredAt,
            registered: entry.registered,
            active: isActive(worker)
        });
    }

    /// @inheritdoc IWorkerRegistry
    function isActive(address worker) public view returns (bool) {
        Stake storage entry = _stakes[worker];
        return entry.registered && entry.amount - entry.thawing >= minStake;
    }

    /// @inheritdoc IWorkerRegistry
    function sessionExpiry(address worker, address sessionKey) external view returns (uint64) {
        uint64 expiry = _sessions[worker][sessionKey];
        return expiry > block.timestamp && _stakes[worker].registered ? expiry : 0;
    }

    /// @inheritdoc IWorkerRegistry
    function token() external view returns (address) {
        return address(_TOKEN);
    }

    function _thaw(address worker, Stake storage entry, uint128 amount) private {
        uint64 thawedAt = amount == 0 ? 0 : (block.timestamp + thawPeriod).toUint64();
        entry.thawing = amount;
        entry.thawedAt = thawedAt;
        emit StakeThawing(worker, amount, thawedAt, entry.amount);
    }

    function _owned(address worker) private view returns (Stake storage entry) {
        entry = _stakes[worker];
        require(msg.sender == entry.operator, WorkerRegistryNotOperator(entry.operator, msg.sender));
    }

    /// @dev Asks the escrow each time, because its domain follows the chain id through a fork.
    function _checkSigner(bytes32 structHash, bytes calldata signature, address expected) private view {
        bytes32 digest = TypedData.digest(IInferenceEscrow(escrow).domainSeparator(), structHash);
        address recovered = TypedData.recover(digest, signature);
        require(recovered == expected, WorkerRegistryInvalidSigner(recovered, expected));
    }
}
