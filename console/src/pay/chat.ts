// A streamed chat: paid like every request, read as it comes, held against its receipt at the end.

import { ask, Broken, read, Refused, refused, Unreachable, type Model, type Status, type StoredReceipt } from "../api.ts";
import { contentHash, fromValues, packBytes, type Parameters, type Tensor } from "../protocol/tensors.ts";
import { paperFromHeader, receiptFromJson, type Paper } from "../protocol/typed.ts";
import { checkPaper, domainOf, type Check } from "../protocol/verify.ts";
import { means, meansId } from "./means.ts";
import { checkRequest, newRequestId, payment, type Paid } from "./request.ts";
import { emit } from "./signal.ts";

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface Wishes {
  maxTokens: number;
  temperature: number;
}

export interface Reply extends Paid {
  text: string;
  finish: string;
  tokens: { prompt: number; completion: number } | undefined;
}

const RECEIPT_TRIES = 40;
const RECEIPT_WAIT_MS = 250;

/** The tensor and parameters that the gateway makes of a chat, for its price and its hash. */
export function asTensors(messages: Message[], wishes: Wishes): { tensors: Tensor[]; parameters: Parameters } {
  const plain = messages.map(({ role, content }) => ({ role, content }));
  return {
    tensors: [{ name: "prompt", datatype: "BYTES", shape: [1], data: packBytes([JSON.stringify(plain)]) }],
    parameters: { format: "chat", max_tokens: wishes.maxTokens, temperature: wishes.temperature },
  };
}

/**
 * Sends a chat and tells the reply as it grows. `stop` ends it early: then what was read is charged, and the receipt is
 * fetched afterwards.
 */
export async function chat(
  status: Status,
  model: Model,
  messages: Message[],
  wishes: Wishes,
  most: bigint,
  stop: AbortSignal,
  tell: (text: string) => void,
): Promise<Reply> {
  const by = means(status);
  if (!by) throw new Error("Open a channel, or give an API key.");
  const requestId = newRequestId();
  const { headers, ceiling } = await payment(by, most, requestId);
  const body = JSON.stringify({
    model: model.name,
    messages,
    max_tokens: wishes.maxTokens,
    temperature: wishes.temperature,
    stream: true,
    stream_options: { include_usage: true },
  });
  const began = performance.now();
  const reply = { text: "", finish: "", tokens: undefined as Reply["tokens"] };
  let paper: Paper | undefined;
  try {
    const answer = await ask("/v1/chat/completions", {
      method: "POST",
      body,
      headers: { "Content-Type": "application/json", ...headers },
      signal: stop,
    });
    for await (const event of events(answer)) {
      if (event.error) throw refused(answer.status, { error: event.error });
      const choice = event.choices?.[0];
      if (choice?.delta?.content) tell((reply.text += choice.delta.content));
      if (choice?.finish_reason) reply.finish = choice.finish_reason;
      if (event.market) paper = paperFromHeader(event.market.receipt);
      if (event.usage) reply.tokens = { prompt: event.usage.prompt_tokens, completion: event.usage.completion_tokens };
    }
    if (!paper) throw new Broken(requestId);
  } catch (error) {
    if (!stop.aborted) {
      emit("spent");
      if (error instanceof Refused) throw error;
      throw reply.text === "" ? new Unreachable() : new Broken(requestId);
    }
    reply.finish = "stopped";
  }
  const took = performance.now() - began;
  paper ??= await fetched(requestId, meansId(by));
  emit("spent");
  const { tensors, parameters } = asTensors(messages, wishes);
  const checks = [
    ...checkRequest(paper.receipt, { requestId, by, gateway: status.gateway, model, tensors, parameters, most, ceiling }),
    output(paper, reply),
    ...(await checkPaper(paper, domainOf(status))),
  ];
  return { ...reply, paper, checks, charged: paper.receipt.price, took };
}

/** The output's hash is over the text, why it ended, and both counts. */
function output(paper: Paper, reply: Pick<Reply, "text" | "finish" | "tokens">): Check {
  const name = "It covers what came back";
  if (reply.finish === "stopped" || !reply.tokens) {
    return { name, holds: undefined, detail: "You stopped it, so its last tokens did not arrive here to be hashed." };
  }
  const { prompt, completion } = reply.tokens;
  const text = (name: string, value: string) => ({ name, datatype: "BYTES", shape: [1], data: packBytes([value]) });
  // The API says "length" for both ways of being cut.
  const holds = [reply.finish, "cancelled"].some((reason) => {
    const outputs = [text("text", reply.text), text("finish_reason", reason), fromValues("usage", "INT64", [2], [prompt, completion])];
    return contentHash(outputs) === paper.receipt.outputHash;
  });
  return { name, holds, detail: `SHA-256 of text, reason and counts, computed here: ${paper.receipt.outputHash}` };
}

interface Event {
  error?: { code: string; message: string };
  choices?: { delta?: { content?: string }; finish_reason?: string | null }[];
  market?: { receipt: string };
  usage?: { prompt_tokens: number; completion_tokens: number } | null;
}

async function* events(answer: Response): AsyncGenerator<Event> {
  const reader = answer.body!.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    waiting += decoder.decode(value, { stream: !done });
    const whole = waiting.split("\n\n");
    waiting = whole.pop() ?? "";
    for (const event of whole) {
      const data = event.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data) as Event;
    }
    if (done) return;
  }
}

/** The receipt of a stream that was stopped: it is written a moment after. */
async function fetched(requestId: string, channelId: string): Promise<Paper> {
  for (let turn = 0; ; turn++) {
    await new Promise((done) => setTimeout(done, RECEIPT_WAIT_MS));
    try {
      const found = await read<StoredReceipt>(`/market/v1/receipts/${requestId}?channel=${channelId}`);
      return {
        receipt: receiptFromJson(found.receipt),
        workerSignature: found.workerSignature as Paper["workerSignature"],
        gatewaySignature: found.gatewaySignature as Paper["gatewaySignature"],
      };
    } catch (error) {
      if (turn === RECEIPT_TRIES) throw new Error("It was stopped before anything was served; nothing is charged.");
    }
  }
}
