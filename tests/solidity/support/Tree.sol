// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice OpenZeppelin's `StandardMerkleTree` over `bytes32` values: leaves hashed twice, sorted, laid out from the end of
/// a complete binary tree.
library Tree {
    function leaf(bytes32 digest) internal pure returns (bytes32) {
        return keccak256(abi.encode(keccak256(abi.encode(digest))));
    }

    function pairHash(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
    }

    function build(bytes32[] memory digests, uint256 index)
        internal
        pure
        returns (bytes32 root, bytes32[] memory proof)
    {
        uint256 size = digests.length;
        bytes32 wanted = leaf(digests[index]);
        bytes32[] memory sorted = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            sorted[i] = leaf(digests[i]);
        }
        _sort(sorted);
        bytes32[] memory tree = new bytes32[](2 * size - 1);
        uint256 at = 0;
        for (uint256 i = 0; i < size; ++i) {
            tree[tree.length - 1 - i] = sorted[i];
            if (sorted[i] == wanted) at = tree.length - 1 - i;
        }
        for (uint256 i = tree.length - size; i > 0; --i) {
            tree[i - 1] = pairHash(tree[2 * i - 1], tree[2 * i]);
        }
        root = tree[0];
        uint256 depth = 0;
        for (uint256 i = at; i > 0; i = (i - 1) / 2) {
            ++depth;
        }
        proof = new bytes32[](depth);
        for (uint256 step = 0; at > 0; at = (at - 1) / 2) {
            proof[step++] = tree[at % 2 == 1 ? at + 1 : at - 1];
        }
    }

    /// @dev Heap sort, fit for thousands.
    function _sort(bytes32[] memory values) private pure {
        uint256 size = values.length;
        for (uint256 start = size / 2; start > 0; --start) {
            _sink(values, start - 1, size);
        }
        for (uint256 end = size; end > 1; --end) {
            (values[0], values[end - 1]) = (values[end - 1], values[0]);
            _sink(values, 0, end - 1);
        }
    }

    function _sink(bytes32[] memory values, uint256 at, uint256 end) private pure {
        while (2 * at + 1 < end) {
            uint256 child = 2 * at + 1;
            if (child + 1 < end && values[child] < values[child + 1]) ++child;
            if (values[at] >= values[child]) return;
            (values[at], values[child]) = (values[child], values[at]);
            at = child;
        }
    }
}
