// One paid request: what it costs, the voucher for it, and whether the receipt that came back is for it.

import { toHex, type Address, type Hex } from "viem";
import { ask, read, Refused, type Channel as ChannelState, type Model, type Status } from "../api.ts";
import { contentHash, decodeBody, encodeBody, type Decoded, type Parameters, type Tensor } from "../protocol/tensors.ts";
import { paperFromHeader, type Paper, type Receipt } from "../protocol/typed.ts";
import { checkPaper, domainOf, type Check } from "../protocol/verify.ts";
import { keptChannel, signVoucher, type Kept } from "./channel.ts";
import { emit } from "./signal.ts";

/** What a request cost and the paper that says so; `took` in milliseconds. */
export interface Paid {
  paper: Paper;
  checks: Check[];
  charged: bigint;
  took: number;
}

export interface Outcome extends Decoded, Paid {}

/** What a request costs at the cheapest live offer, at most; nothing is charged for asking. */
export async function price(model: Model, tensors: Tensor[], parameters: Parameters = {}): Promise<bigint> {
  const body = encodeBody(tensors, parameters);
  const path = `/market/v1/models/${encodeURIComponent(model.name)}/quote`;
  const answer = await ask(path, { method: "POST", body: body.bytes as BodyInit, headers: body.headers });
  const { offers } = (await answer.json()) as { offers: { price: string }[] };
  const prices = offers.map((offer) => BigInt(offer.price));
  if (prices.length === 0) throw new Error("No live worker offers this model.");
  return prices.reduce((least, one) => (one < least ? one : least));
}

export const newRequestId = (): Hex => toHex(crypto.getRandomValues(new Uint8Array(32)));

/** Headers that pay for a request of at most `most` atomic units from the browser's channel. */
export async function payment(kept: Kept, most: bigint, requestId: Hex): Promise<{ headers: Record<string, string>; ceiling: bigint }> {
  const state = await read<ChannelState>(`/market/v1/channels/${kept.id}`);
  const required = BigInt(state.required);
  const signed = BigInt(kept.signed);
  // The gateway's own count is believed only as far as it was signed for.
  if (BigInt(state.charged) > signed) throw new Error("The gateway claims more than this browser ever signed.");
  if (BigInt(state.available) < most) {
    throw new Refused(402, {
      code: "insufficient-deposit",
      detail: "The channel has too little left for this request.",
      remedy: "Add to its deposit, or wait for the next settlement if much is unsettled.",
    });
  }
  const ceiling = required + most;
  return {
    ceiling,
    headers: {
      "Market-Voucher": await signVoucher(kept, ceiling),
      "Market-Request-Id": requestId,
      "Market-Max-Price": most.toString(),
    },
  };
}

/** Pays for and runs one inference, and holds the answer against its receipt. */
export async function infer(
  status: Status,
  model: Model,
  tensors: Tensor[],
  parameters: Parameters,
  most: bigint,
): Promise<Outcome> {
  const kept = keptChannel(status);
  if (!kept) throw new Error("Open a channel first.");
  const requestId = newRequestId();
  const { headers, ceiling } = await payment(kept, most, requestId);
  const body = encodeBody(tensors, parameters);
  const began = performance.now();
  const answer = await ask(`/v2/models/${encodeURIComponent(model.name)}/infer`, {
    method: "POST",
    body: body.bytes as BodyInit,
    headers: { ...body.headers, ...headers },
  });
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const took = performance.now() - began;
  emit("spent");
  const decoded = decodeBody(answer.headers, bytes);
  const paper = paperFromHeader(answer.headers.get("Market-Receipt") ?? "");
  const outputHash = contentHash(decoded.outputs, decoded.parameters);
  const checks: Check[] = [
    ...checkRequest(paper.receipt, { requestId, kept, model, tensors, parameters, most, ceiling }),
    {
      name: "It covers what came back",
      holds: paper.receipt.outputHash === outputHash,
      detail: `SHA-256 of the output, computed here: ${outputHash}.`,
    },
    ...(await checkPaper(paper, domainOf(status))),
  ];
  return { ...decoded, paper, checks, charged: paper.receipt.price, took };
}

export interface Sent {
  requestId: Hex;
  kept: Kept;
  model: Model;
  tensors: Tensor[];
  parameters: Parameters;
  most: bigint;
  ceiling: bigint;
}

/** Whether a receipt is for what was sent, and within what was signed for it. */
export function checkRequest(receipt: Receipt, sent: Sent): Check[] {
  const { requestId, kept, model, most, ceiling } = sent;
  const inputHash = contentHash(sent.tensors, sent.parameters);
  return [
    {
      name: "It is for this request",
      holds:
        receipt.requestId === requestId &&
        receipt.channelId === kept.id &&
        receipt.modelId === model.modelId.toLowerCase() &&
        sameAddress(receipt.payer, kept.payer) &&
        sameAddress(receipt.gateway, kept.gateway),
      detail: "Request, channel, model, payer and gateway are those that were sent.",
    },
    {
      name: "It charges no more than was signed",
      holds: receipt.price <= most && receipt.cumulative <= ceiling,
      detail: "Price and total stay within the voucher.",
    },
    {
      name: "It covers what was sent",
      holds: receipt.inputHash === inputHash,
      detail: `SHA-256 of the input, computed here: ${inputHash}.`,
    },
  ];
}

const sameAddress = (a: Address, b: Address): boolean => a.toLowerCase() === b.toLowerCase();
