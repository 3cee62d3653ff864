// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice Valid ECDSA signatures for a few multiplications modulo the order, where `vm.sign` takes several of points: the
/// nonce is always 1, so that `r` is the x of the curve's generator and `s` is `digest + r * key`. Such a signature gives
/// its key away, which is nothing to a test, and recovers like any other, with both values of `v`. For those that sign tens
/// of thousands of times; the others have `vm.sign`.
library Quick {
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    uint256 private constant GENERATOR_X = 0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798;

    function sign(uint256 key, bytes32 digest) internal pure returns (uint8 v, bytes32 r, bytes32 s) {
        uint256 raw = addmod(uint256(digest), mulmod(GENERATOR_X, key, ORDER), ORDER);
        // The generator's y is even; the lower of `s` and `-s` is the one that contracts accept.
        return
            raw > ORDER / 2
                ? (28, bytes32(GENERATOR_X), bytes32(ORDER - raw))
                : (27, bytes32(GENERATOR_X), bytes32(raw));
    }

    function signCompact(uint256 key, bytes32 digest) internal pure returns (bytes32 r, bytes32 vs) {
        (uint8 v, bytes32 x, bytes32 s) = sign(key, digest);
        return (x, bytes32(uint256(v - 27) << 255 | uint256(s)));
    }
}
