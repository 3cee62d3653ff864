// One paid request: what it costs, the voucher for it, and whether the receipt that came back is for it.

import { toHex, type Hex } from "viem";
import { ask, read, Refused, type Channel as ChannelState, type Model, type Status } from "../api.ts";
import { contentHash, decodeBody, encodeBody, type Decoded, type Parameters, type Tensor } from "../protocol/tensors.ts";
import { paperFromHeader, type Paper, type Receipt } from "../protocol/typed.ts";
import { checkPaper, domainOf, type Check } from "../protocol/verify.ts";
import { signVoucher } from "./channel.ts";
import { bearer, means, meansId, type Means } from "./means.ts";
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

export interface Payment {
  headers: Record<string, string>;
  /** The total that was signed for it; none where a key pays, which has its own limit. */
  ceiling: bigint | undefined;
}

/** Headers that pay for a request of at most `most` atomic units. */
export async function payment(by: Means, most: bigint, requestId: Hex): Promise<Payment> {
  const limits = { "Market-Request-Id": requestId, "Market-Max-Price": most.toString() };
  if (by.key) return { ceiling: undefined, headers: { ...bearer(by.key.secret), ...limits } };
  const kept = by.channel;
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
    headers: { "Market-Voucher": await signVoucher(kept, ceiling), ...limits },
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
  const by = means(status);
  if (!by) throw new Error("Open a channel, or give an API key.");
  const requestId = newRequestId();
  const { headers, ceiling } = await payment(by, most, requestId);
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
    ...checkRequest(paper.receipt, { requestId, by, gateway: status.gateway, model, tensors, parameters, most, ceiling }),
    {
      name: "It covers what came back",
      holds: paper.receipt.outputHash === outputHash,
      detail: `SHA-256 of the output, computed here: ${outputHash}`,
    },
    ...(await checkPaper(paper, domainOf(status))),
  ];
  return { ...decoded, paper, checks, charged: paper.receipt.price, took };
}

export interface Sent {
  requestId: Hex;
  by: Means;
  gateway: string;
  model: Model;
  tensors: Tensor[];
  parameters: Parameters;
  most: bigint;
  ceiling: bigint | undefined;
}

/** Whether a receipt is for what was sent, and within what was signed for it. */
export function checkRequest(receipt: Receipt, sent: Sent): Check[] {
  const { requestId, by, model, most, ceiling } = sent;
  const inputHash = contentHash(sent.tensors, sent.parameters);
  return [
    {
      name: "It is for this request",
      holds:
        receipt.requestId === requestId &&
        receipt.channelId === meansId(by) &&
        receipt.modelId === model.modelId.toLowerCase() &&
        (by.key !== undefined || sameAddress(receipt.payer, by.channel.payer)) &&
        sameAddress(receipt.gateway, sent.gateway),
      detail: by.key
        ? "Request, model and gateway are those that were sent; the channel is the one that the key spends from."
        : "Request, channel, model, payer and gateway are those that were sent.",
    },
    {
      name: "It charges no more than was signed",
      holds: receipt.price <= most && (ceiling === undefined || receipt.cumulative <= ceiling),
      detail: ceiling === undefined ? "The price is no more than was asked." : "Price and total stay within the voucher.",
    },
    {
      name: "It covers what was sent",
      holds: receipt.inputHash === inputHash,
      detail: `SHA-256 of the input, computed here: ${inputHash}`,
    },
  ];
}

const sameAddress = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();
