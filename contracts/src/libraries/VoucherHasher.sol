// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TypedData} from "./TypedData.sol";

/// @title VoucherHasher
/// @notice Channel ids and voucher digests of a whole batch in one reused piece of memory. The same digests as
/// {TypedData}, which the tests compare; `abi.encode` in the loop would cost a quarter more a channel.
library VoucherHasher {
    /// @dev Word offsets: 0 channel struct (5 words), 5 voucher struct (3 words), 8 `0x1901` right-aligned, 9 domain
    /// separator, 10 struct hash. A digest covers the last two bytes of word 8 and words 9 and 10.
    type Scratch is uint256;

    function make(bytes32 domainSeparator, address gateway) internal pure returns (Scratch scratch) {
        bytes32 channelType = TypedData.CHANNEL;
        bytes32 voucherType = TypedData.VOUCHER;
        assembly ("memory-safe") {
            scratch := mload(0x40)
            mstore(0x40, add(scratch, 0x160))
            mstore(scratch, channelType)
            mstore(add(scratch, 0x60), shr(96, shl(96, gateway)))
            mstore(add(scratch, 0xa0), voucherType)
            mstore(add(scratch, 0x100), 0x1901)
            mstore(add(scratch, 0x120), domainSeparator)
        }
    }

    function channelId(Scratch scratch, address payer, address signer, uint64 salt) internal pure returns (bytes32 id) {
        assembly ("memory-safe") {
            mstore(add(scratch, 0x20), payer)
            mstore(add(scratch, 0x40), signer)
            mstore(add(scratch, 0x80), salt)
            mstore(add(scratch, 0x140), keccak256(scratch, 0xa0))
            id := keccak256(add(scratch, 0x11e), 0x42)
        }
    }

    function voucherDigest(Scratch scratch, bytes32 id, uint128 cumulativeAmount)
        internal
        pure
        returns (bytes32 digest)
    {
        assembly ("memory-safe") {
            mstore(add(scratch, 0xc0), id)
            mstore(add(scratch, 0xe0), cumulativeAmount)
            mstore(add(scratch, 0x140), keccak256(add(scratch, 0xa0), 0x60))
            digest := keccak256(add(scratch, 0x11e), 0x42)
        }
    }
}
