// The EIP-712 structs of the market, as contracts/protocol/typed_data.py has them; tests hold both to the same vectors.

import { hashTypedData, recoverAddress, type Address, type Hex } from "viem";
import { climb } from "./merkle.ts";

export interface Domain {
  chainId: number;
  escrow: Address;
}

export const TYPES = {
  Channel: [
    { name: "payer", type: "address" },
    { name: "signer", type: "address" },
    { name: "gateway", type: "address" },
    { name: "salt", type: "uint64" },
  ],
  Voucher: [
    { name: "channelId", type: "bytes32" },
    { name: "cumulativeAmount", type: "uint128" },
  ],
  Receipt: [
    { name: "requestId", type: "bytes32" },
    { name: "channelId", type: "bytes32" },
    { name: "payer", type: "address" },
    { name: "gateway", type: "address" },
    { name: "seq", type: "uint64" },
    { name: "worker", type: "address" },
    { name: "modelId", type: "bytes32" },
    { name: "inputHash", type: "bytes32" },
    { name: "outputHash", type: "bytes32" },
    { name: "price", type: "uint128" },
    { name: "workerAmount", type: "uint128" },
    { name: "ownerAmount", type: "uint128" },
    { name: "cumulative", type: "uint128" },
    { name: "servedAt", type: "uint64" },
  ],
} as const;

export const viemDomain = (domain: Domain) =>
  ({
    name: "InferenceEscrow",
    version: "1",
    chainId: domain.chainId,
    verifyingContract: domain.escrow,
  }) as const;

export interface Channel {
  payer: Address;
  signer: Address;
  gateway: Address;
  salt: bigint;
}

export interface Receipt {
  requestId: Hex;
  channelId: Hex;
  payer: Address;
  gateway: Address;
  seq: bigint;
  worker: Address;
  modelId: Hex;
  inputHash: Hex;
  outputHash: Hex;
  price: bigint;
  workerAmount: bigint;
  ownerAmount: bigint;
  cumulative: bigint;
  servedAt: bigint;
}

export const channelId = (channel: Channel, domain: Domain): Hex =>
  hashTypedData({ domain: viemDomain(domain), types: { Channel: TYPES.Channel }, primaryType: "Channel", message: channel });

export const receiptDigest = (receipt: Receipt, domain: Domain): Hex =>
  hashTypedData({ domain: viemDomain(domain), types: { Receipt: TYPES.Receipt }, primaryType: "Receipt", message: receipt });

export const voucherDigest = (id: Hex, cumulativeAmount: bigint, domain: Domain): Hex =>
  hashTypedData({
    domain: viemDomain(domain),
    types: { Voucher: TYPES.Voucher },
    primaryType: "Voucher",
    message: { channelId: id, cumulativeAmount },
  });

/** What shows a gateway that the signer of a channel asks; see contracts/protocol/typed_data.py. */
export const accessDigest = (id: Hex, domain: Domain): Hex =>
  hashTypedData({
    domain: viemDomain(domain),
    types: { ChannelAccess: [{ name: "channelId", type: "bytes32" }] },
    primaryType: "ChannelAccess",
    message: { channelId: id },
  });

const ACCESS_MARK = 0x616363n;
const ACCESS_MARK_SHIFT = 40n;

/** A random salt of a channel whose vouchers are good only beside `ChannelAccess`: others come to have them. */
export const guardedSalt = (drawn: bigint): bigint =>
  (ACCESS_MARK << ACCESS_MARK_SHIFT) | BigInt.asUintN(Number(ACCESS_MARK_SHIFT), drawn);

export const needsAccess = (channel: Channel): boolean => channel.salt >> ACCESS_MARK_SHIFT === ACCESS_MARK;

/** Reads a receipt's JSON form: hex as it is, numbers from decimal strings. */
export function receiptFromJson(data: Record<string, string>): Receipt {
  const found: Record<string, string | bigint> = {};
  for (const { name, type } of TYPES.Receipt) {
    const text = data[name];
    if (typeof text !== "string") throw new Error(`The receipt has no ${name}.`);
    if (type.startsWith("uint")) found[name] = BigInt(text);
    else if (/^0x[0-9a-fA-F]*$/.test(text) && text.length === (type === "address" ? 42 : 66)) found[name] = text.toLowerCase();
    else throw new Error(`The receipt's ${name} is malformed.`);
  }
  return found as unknown as Receipt;
}

export const batchDigest = (root: Hex, domain: Domain): Hex =>
  hashTypedData({
    domain: viemDomain(domain),
    types: { ReceiptBatch: [{ name: "root", type: "bytes32" }] },
    primaryType: "ReceiptBatch",
    message: { root },
  });

export const refundDigest = (id: Hex, nonce: bigint, amount: bigint, domain: Domain): Hex =>
  hashTypedData({
    domain: viemDomain(domain),
    types: {
      Refund: [
        { name: "channelId", type: "bytes32" },
        { name: "nonce", type: "uint64" },
        { name: "amount", type: "uint128" },
      ],
    },
    primaryType: "Refund",
    message: { channelId: id, nonce, amount },
  });

const SIGNATURE_BYTES = 65;
const STEP_BYTES = 32;

/**
 * The signer of a receipt's digest, in lower case: of the digest itself, or of the root that the proof behind the
 * signature leads to (contracts/protocol/receipts.py).
 */
export async function receiptSigner(digest: Hex, signature: Hex, domain: Domain): Promise<string> {
  const proofBytes = (signature.length - 2) / 2 - SIGNATURE_BYTES;
  if (proofBytes < 0 || proofBytes % STEP_BYTES !== 0) throw new Error("The signature is malformed.");
  const alone = signature.slice(0, 2 + 2 * SIGNATURE_BYTES) as Hex;
  const steps: Hex[] = [];
  for (let at = alone.length; at < signature.length; at += 2 * STEP_BYTES) {
    steps.push(`0x${signature.slice(at, at + 2 * STEP_BYTES)}`);
  }
  const hash = steps.length === 0 ? digest : batchDigest(climb(digest, steps), domain);
  return (await recoverAddress({ hash, signature: alone })).toLowerCase();
}

const WIDTH: Record<string, number> = { bytes32: 32, address: 20, uint128: 16, uint64: 8 };

export interface Paper {
  receipt: Receipt;
  workerSignature: Hex;
  gatewaySignature: Hex;
}

/** Reads the `Market-Receipt` header: base64url of the fields, the length of the worker's signature, both signatures. */
export function paperFromHeader(text: string): Paper {
  const raw = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
  let offset = 0;
  const take = (size: number): Hex => {
    if (offset + size > raw.length) throw new Error("The receipt is cut short.");
    const part = raw.subarray(offset, (offset += size));
    return `0x${Array.from(part, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  };
  const found: Record<string, string | bigint> = {};
  for (const { name, type } of TYPES.Receipt) {
    const hex = take(WIDTH[type]!);
    found[name] = type.startsWith("uint") ? BigInt(hex) : hex;
  }
  const workerSignature = take(Number(BigInt(take(2))));
  const gatewaySignature = take(raw.length - offset);
  for (const signature of [workerSignature, gatewaySignature]) {
    const proofBytes = (signature.length - 2) / 2 - SIGNATURE_BYTES;
    if (proofBytes < 0 || proofBytes % STEP_BYTES !== 0) throw new Error("A signature of the receipt is malformed.");
  }
  return { receipt: found as unknown as Receipt, workerSignature, gatewaySignature };
}
