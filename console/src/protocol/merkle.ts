// OpenZeppelin's standard tree over receipt digests: leaf = keccak(keccak(digest)), pairs are sorted.

import { concat, keccak256, type Hex } from "viem";

export const leaf = (digest: Hex): Hex => keccak256(keccak256(digest));

const pair = (a: Hex, b: Hex): Hex => keccak256(a < b ? concat([a, b]) : concat([b, a]));

/** The root that a proof leads to. */
export const climb = (digest: Hex, proof: readonly Hex[]): Hex =>
  proof.reduce<Hex>((node, sibling) => pair(node, sibling.toLowerCase() as Hex), leaf(digest));

export const proves = (root: Hex, digest: Hex, proof: readonly Hex[]): boolean =>
  climb(digest, proof) === root.toLowerCase();
