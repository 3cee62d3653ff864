// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @dev One storage word in hand-packed form: the compiler writes a packed struct field by field, which costs a settlement
/// a tenth of its gas.
/// Two totals of 128 bits, the first in the low half.
type Pair is uint256;

/// @dev Reserve (low 128 bits), newest epoch (64), receipts in all (64).
type GatewayState is uint256;

using {first, second, withFirst, withSecond} for Pair global;
using {reserve, lastEpoch, receiptCount, withReserve} for GatewayState global;

uint256 constant LOW_HALF = type(uint128).max;

function first(Pair self) pure returns (uint128) {
    return uint128(Pair.unwrap(self));
}

function second(Pair self) pure returns (uint128) {
    return uint128(Pair.unwrap(self) >> 128);
}

function withFirst(Pair self, uint128 value) pure returns (Pair) {
    return Pair.wrap(Pair.unwrap(self) & ~LOW_HALF | value);
}

function withSecond(Pair self, uint128 value) pure returns (Pair) {
    return Pair.wrap(Pair.unwrap(self) & LOW_HALF | uint256(value) << 128);
}

function gatewayState(uint128 reserve_, uint64 lastEpoch_, uint64 receiptCount_) pure returns (GatewayState) {
    return GatewayState.wrap(uint256(receiptCount_) << 192 | uint256(lastEpoch_) << 128 | reserve_);
}

function reserve(GatewayState self) pure returns (uint128) {
    return uint128(GatewayState.unwrap(self));
}

function lastEpoch(GatewayState self) pure returns (uint64) {
    return uint64(GatewayState.unwrap(self) >> 128);
}

function receiptCount(GatewayState self) pure returns (uint64) {
    return uint64(GatewayState.unwrap(self) >> 192);
}

function withReserve(GatewayState self, uint128 value) pure returns (GatewayState) {
    return GatewayState.wrap(GatewayState.unwrap(self) & ~LOW_HALF | value);
}
