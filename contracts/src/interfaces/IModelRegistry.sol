// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IModelRegistry
/// @notice Listings: a model's content hash, its owner and the owner's terms. Holds no money.
/// @dev A model id is the hash of the model's manifest and is listed once, by whoever comes first; a name is an alias of
/// the newest version its owner listed under it. Nothing is ever deleted.
interface IModelRegistry {
    /// @param minPrice,maxPrice bounds of a worker's price for one unit, atomic token units.
    /// @param royaltyPpm owner's share of each price, parts per million.
    /// @param unit what a price is for: 0 request, 1 row, 2 token, 3 byte, 4 image, 5 second of audio,
    /// 6 million tokens.
    /// @param supersededBy newer version under the same name; zero for the newest.
    struct Model {
        address owner;
        address pendingOwner;
        uint128 minPrice;
        uint128 maxPrice;
        uint32 royaltyPpm;
        uint8 unit;
        bool active;
        uint64 listedAt;
        bytes32 supersededBy;
        string name;
        string uri;
    }

    event ModelListed(
        bytes32 indexed modelId,
        address indexed owner,
        string name,
        uint128 minPrice,
        uint128 maxPrice,
        uint32 royaltyPpm,
        uint8 unit,
        string uri
    );
    event ModelUpdated(bytes32 indexed modelId, uint128 minPrice, uint128 maxPrice, uint32 royaltyPpm, string uri);
    event ModelActivity(bytes32 indexed modelId, bool active);
    event ModelOwnershipOffered(bytes32 indexed modelId, address indexed owner, address indexed pendingOwner);
    event ModelOwnershipTransferred(bytes32 indexed modelId, address indexed previousOwner, address indexed owner);
    /// @notice Follows `ModelListed` of the new version: the name now means `newModelId`.
    event ModelSuperseded(bytes32 indexed oldModelId, bytes32 indexed newModelId, string name);

    error ModelRegistryZeroModelId();
    error ModelRegistryListed(bytes32 modelId, address owner);
    error ModelRegistryNotListed(bytes32 modelId);
    error ModelRegistryNameTaken(string name, bytes32 modelId);
    error ModelRegistryInvalidName(string name);
    error ModelRegistryNotOwner(address owner, address caller);
    error ModelRegistryNotPendingOwner(address pendingOwner, address caller);
    error ModelRegistryPriceBounds(uint128 minPrice, uint128 maxPrice);
    error ModelRegistryRoyalty(uint32 royaltyPpm, uint32 maxRoyaltyPpm);
    error ModelRegistryUnit(uint8 unit, uint8 maxUnit);
    error ModelRegistrySuperseded(bytes32 modelId, bytes32 supersededBy);

    /// @notice Lists a model under a new name, owned by the caller and active.
    /// @param name `[a-z0-9][a-z0-9._-]{0,62}`, unused.
    function list(
        bytes32 modelId,
        string calldata name,
        uint128 minPrice,
        uint128 maxPrice,
        uint32 royaltyPpm,
        uint8 unit,
        string calldata uri
    ) external;

    /// @notice Owner only: changes the terms of future offers. Receipts already signed keep theirs.
    function update(bytes32 modelId, uint128 minPrice, uint128 maxPrice, uint32 royaltyPpm, string calldata uri)
        external;

    /// @notice Owner only: delists (false) or relists (true).
    function setActive(bytes32 modelId, bool active) external;

    /// @notice Owner only: offers the listing to `newOwner`, who must accept; zero takes the offer back.
    function transferOwnership(bytes32 modelId, address newOwner) external;

    /// @notice Pending owner only.
    function acceptOwnership(bytes32 modelId) external;

    /// @notice Owner only: lists a new version under the same name and terms. The old one stays as it is, reachable by id.
    function supersede(bytes32 oldModelId, bytes32 newModelId, string calldata uri) external;

    function models(bytes32 modelId) external view returns (Model memory);

    /// @notice Newest model under a name; zero if there is none.
    function modelByName(string calldata name) external view returns (bytes32);

    /// @notice Highest royalty that a listing may ask, parts per million.
    function MAX_ROYALTY_PPM() external view returns (uint32);
}
