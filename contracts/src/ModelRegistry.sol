// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "./interfaces/IModelRegistry.sol";

/// @title ModelRegistry
/// @notice Specified in {IModelRegistry}.
contract ModelRegistry is IModelRegistry {
    /// @inheritdoc IModelRegistry
    uint32 public constant MAX_ROYALTY_PPM = 500_000;
    uint8 private constant MAX_UNIT = 6;
    uint256 private constant MAX_NAME_LENGTH = 63;

    mapping(bytes32 modelId => Model) private _models;
    mapping(string name => bytes32 modelId) private _newest;

    /// @inheritdoc IModelRegistry
    function list(
        bytes32 modelId,
        string calldata name,
        uint128 minPrice,
        uint128 maxPrice,
        uint32 royaltyPpm,
        uint8 unit,
        string calldata uri
    ) external {
        require(_isName(name), ModelRegistryInvalidName(name));
        require(_newest[name] == 0, ModelRegistryNameTaken(name, _newest[name]));
        require(unit <= MAX_UNIT, ModelRegistryUnit(unit, MAX_UNIT));
        _checkTerms(minPrice, maxPrice, royaltyPpm);
        _list(modelId, name, minPrice, maxPrice, royaltyPpm, unit, uri);
    }

    /// @inheritdoc IModelRegistry
    function update(bytes32 modelId, uint128 minPrice, uint128 maxPrice, uint32 royaltyPpm, string calldata uri)
        external
    {
        Model storage model = _owned(modelId);
        _checkTerms(minPrice, maxPrice, royaltyPpm);
        model.minPrice = minPrice;
        model.maxPrice = maxPrice;
        model.royaltyPpm = royaltyPpm;
        model.uri = uri;
        emit ModelUpdated(modelId, minPrice, maxPrice, royaltyPpm, uri);
    }

    /// @inheritdoc IModelRegistry
    function setActive(bytes32 modelId, bool active) external {
        _owned(modelId).active = active;
        emit ModelActivity(modelId, active);
    }

    /// @inheritdoc IModelRegistry
    function transferOwnership(bytes32 modelId, address newOwner) external {
        _owned(modelId).pendingOwner = newOwner;
        emit ModelOwnershipOffered(modelId, msg.sender, newOwner);
    }

    /// @inheritdoc IModelRegistry
    function acceptOwnership(bytes32 modelId) external {
        Model storage model = _models[modelId];
        require(msg.sender == model.pendingOwner, ModelRegistryNotPendingOwner(model.pendingOwner, msg.sender));
        address previous = model.owner;
        model.owner = msg.sender;
        model.pendingOwner = address(0);
        emit ModelOwnershipTransferred(modelId, previous, msg.sender);
    }

    /// @inheritdoc IModelRegistry
    function supersede(bytes32 oldModelId, bytes32 newModelId, string calldata uri) external {
        Model storage old = _owned(oldModelId);
        require(old.supersededBy == 0, ModelRegistrySuperseded(oldModelId, old.supersededBy));
        old.supersededBy = newModelId;
        _list(newModelId, old.name, old.minPrice, old.maxPrice, old.royaltyPpm, old.unit, uri);
        emit ModelSuperseded(oldModelId, newModelId, old.name);
    }

    /// @inheritdoc IModelRegistry
    function models(bytes32 modelId) external view returns (Model memory) {
        return _models[modelId];
    }

    /// @inheritdoc IModelRegistry
    function modelByName(string calldata name) external view returns (bytes32) {
        return _newest[name];
    }

    function _list(
        bytes32 modelId,
        string memory name,
        uint128 minPrice,
        uint128 maxPrice,
        uint32 royaltyPpm,
        uint8 unit,
        string calldata uri
    ) private {
        require(modelId != 0, ModelRegistryZeroModelId());
        Model storage model = _models[modelId];
        require(model.owner == address(0), ModelRegistryListed(modelId, model.owner));
        model.owner = msg.sender;
        model.minPrice = minPrice;
        model.maxPrice = maxPrice;
        model.royaltyPpm = royaltyPpm;
        model.unit = unit;
        model.active = true;
        model.listedAt = uint64(block.timestamp);
        model.name = name;
        model.uri = uri;
        _newest[name] = modelId;
        emit ModelListed(modelId, msg.sender, name, minPrice, maxPrice, royaltyPpm, unit, uri);
    }

    function _owned(bytes32 modelId) private view returns (Model storage model) {
        model = _models[modelId];
        require(model.owner != address(0), ModelRegistryNotListed(modelId));
        require(msg.sender == model.owner, ModelRegistryNotOwner(model.owner, msg.sender));
    }

    function _checkTerms(uint128 minPrice, uint128 maxPrice, uint32 royaltyPpm) private pure {
        require(minPrice <= maxPrice, ModelRegistryPriceBounds(minPrice, maxPrice));
        require(royaltyPpm <= MAX_ROYALTY_PPM, ModelRegistryRoyalty(royaltyPpm, MAX_ROYALTY_PPM));
    }

    /// @dev `[a-z0-9][a-z0-9._-]{0,62}`.
    function _isName(string calldata name) private pure returns (bool) {
        bytes calldata letters = bytes(name);
        if (letters.length == 0 || letters.length > MAX_NAME_LENGTH) return false;
        for (uint256 i = 0; i < letters.length; ++i) {
            bytes1 letter = letters[i];
            bool plain = (letter >= "a" && letter <= "z") || (letter >= "0" && letter <= "9");
            bool inner = letter == "." || letter == "_" || letter == "-";
            if (!plain && (i == 0 || !inner)) return false;
        }
        return true;
    }
}
