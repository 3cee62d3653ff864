// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title IERC3009
/// @notice EIP-3009 as USDC v2.2 offers it: random nonces, and each call with the signature split or in one piece.
/// @dev An authorization is valid when `validAfter < block.timestamp < validBefore` and its nonce is unused.
interface IERC3009 {
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

    /// @notice Moves `value` from `from` to `to`. Anyone may relay it, so a contract that credits the sender of such a
    /// transfer can be front-run; use `receiveWithAuthorization` there.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;

    /// @notice As above with the signature split.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Moves `value` from `from` to `to`; only `to` can call it.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;

    /// @notice As above with the signature split.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Makes an unused nonce of `authorizer` unusable.
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature) external;

    /// @notice As above with the signature split.
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Whether the nonce has been used or cancelled.
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
}
