// The few functions of the contracts that the console calls.

import { parseAbi } from "viem";

export const ESCROW = parseAbi([
  "struct Channel { address payer; address signer; address gateway; uint64 salt; }",
  "function settlements(address gateway, uint64 epoch) view returns (bytes32)",
  "function verifyReceipt(address gateway, uint64 epoch, bytes32 digest, bytes32[] proof) view returns (bool)",
  "function channels(bytes32 id) view returns (uint128 deposited, uint128 settled, uint128 exitAmount, uint64 exitAt)",
  "function exitDelay() view returns (uint64)",
  "function deposit(Channel channel, uint128 amount)",
  "function depositWithPermit(Channel channel, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)",
  "function initiateExit(Channel channel, uint128 amount)",
  "function finalizeExit(Channel channel)",
  "function refund(Channel channel, uint64 nonce, uint128 amount, bytes gatewaySignature)",
]);

export const WORKERS = parseAbi([
  "struct Worker { address operator; uint128 stake; uint128 thawing; uint64 thawedAt; uint64 registeredAt; bool registered; bool active; }",
  "function workers(address worker) view returns (Worker)",
]);

export const MODELS = parseAbi([
  "struct Model { address owner; address pendingOwner; uint128 minPrice; uint128 maxPrice; uint32 royaltyPpm; uint8 unit; bool active; uint64 listedAt; bytes32 supersededBy; string name; string uri; }",
  "function models(bytes32 modelId) view returns (Model)",
]);

export const TOKEN = parseAbi([
  "function name() view returns (string)",
  "function version() view returns (string)",
  "function nonces(address owner) view returns (uint256)",
  "function balanceOf(address owner) view returns (uint256)",
  "function allowance(address owner, address spender) view returns (uint256)",
  "function approve(address spender, uint256 amount) returns (bool)",
]);
