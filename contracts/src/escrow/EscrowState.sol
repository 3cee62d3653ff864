// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";
import {GatewayState, Pair} from "../libraries/Packing.sol";
import {TypedData} from "../libraries/TypedData.sol";

/// @title EscrowState
/// @notice Storage of {InferenceEscrow}, its views, and what its parts share.
abstract contract EscrowState is IInferenceEscrow, EIP712 {
    using SafeERC20 for IERC20;

    struct Exit {
        uint128 amount;
        uint64 exitAt;
        uint64 refundNonce;
    }

    struct Thaw {
        uint128 amount;
        uint64 thawedAt;
    }

    struct Note {
        uint128 cumulative;
        uint128 owed;
    }

    IERC20 internal immutable _TOKEN;
    /// @inheritdoc IInferenceEscrow
    uint64 public immutable exitDelay;
    /// @inheritdoc IInferenceEscrow
    uint64 public immutable reserveThaw;

    /// @dev First deposited, second settled.
    mapping(bytes32 channelId => Pair) internal _channels;
    mapping(bytes32 channelId => Exit) internal _exits;
    mapping(address gateway => GatewayState) internal _gateways;
    mapping(address gateway => Thaw) internal _thaws;
    mapping(address gateway => mapping(uint256 epoch => bytes32)) internal _roots;
    /// @dev First credited, second withdrawn.
    mapping(address gateway => mapping(address payee => Pair)) internal _payees;
    mapping(address gateway => mapping(address payee => Note)) internal _notes;
    /// @inheritdoc IInferenceEscrow
    mapping(address gateway => uint128) public arrears;
    /// @inheritdoc IInferenceEscrow
    address public disputeManager;

    constructor(address token_, uint64 exitDelay_, uint64 reserveThaw_) EIP712("InferenceEscrow", "1") {
        require(token_ != address(0), InferenceEscrowZeroAddress());
        _TOKEN = IERC20(token_);
        exitDelay = exitDelay_;
        reserveThaw = reserveThaw_;
    }

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
        return (_channels[id].first(), _channels[id].second(), _exits[id].amount, _exits[id].exitAt);
    }

    /// @inheritdoc IInferenceEscrow
    function refundNonce(bytes32 id) external view returns (uint64) {
        return _exits[id].refundNonce;
    }

    /// @inheritdoc IInferenceEscrow
    function lastEpoch(address gateway) external view returns (uint64) {
        return _gateways[gateway].lastEpoch();
    }

    /// @inheritdoc IInferenceEscrow
    function receiptCount(address gateway) external view returns (uint64) {
        return _gateways[gateway].receiptCount();
    }

    /// @inheritdoc IInferenceEscrow
    function settlements(address gateway, uint64 epoch) external view returns (bytes32 receiptsRoot) {
        return _roots[gateway][epoch];
    }

    /// @inheritdoc IInferenceEscrow
    function credits(address gateway, address payee) external view returns (uint128 credited, uint128 withdrawn) {
        return (_payees[gateway][payee].first(), _payees[gateway][payee].second());
    }

    /// @inheritdoc IInferenceEscrow
    function reserves(address gateway) external view returns (uint128 amount, uint128 thawingAmount, uint64 thawedAt) {
        return (_gateways[gateway].reserve(), _thaws[gateway].amount, _thaws[gateway].thawedAt);
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
        bytes32 leaf = keccak256(abi.encode(keccak256(abi.encode(digest))));
        return MerkleProof.verifyCalldata(proof, _roots[gateway][epoch], leaf);
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

    function _pay(address to, uint256 amount) internal {
        if (amount > 0) _TOKEN.safeTransfer(to, amount);
    }

    function _checkSigner(bytes32 structHash, bytes calldata signature, address expected) internal view {
        address recovered = TypedData.recover(_hashTypedDataV4(structHash), signature);
        require(recovered == expected && recovered != address(0), InferenceEscrowInvalidSigner(recovered, expected));
    }

    /// @dev A receipt may be signed alone or in a batch.
    function _checkReceiptSigner(bytes32 receiptDigest_, bytes calldata signature, address expected) internal view {
        address recovered = TypedData.recoverReceipt(_domainSeparatorV4(), receiptDigest_, signature);
        require(recovered == expected && recovered != address(0), InferenceEscrowInvalidSigner(recovered, expected));
    }

    function _unclaimed(bytes32 id) internal view returns (uint128) {
        Pair balance = _channels[id];
        return balance.first() - balance.second();
    }

    /// @dev The part of a reserve that presented notes leave free.
    function _freeReserve(address gateway, uint128 reserve) internal view returns (uint128) {
        // Not above `reserve`, so it fits.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint128(Math.saturatingSub(reserve, arrears[gateway]));
    }
}
