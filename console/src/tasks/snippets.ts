// The same call for other programs; what pays is named, never pasted in.

import type { Model } from "../api.ts";
import type { Message, Wishes } from "../pay/chat.ts";
import { kindOf, linesOf, type Given } from "./tasks.ts";

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** The request as the protocol's plain JSON. */
export function plainBody(model: Model, given: Given): string {
  const name = model.inputs?.[0]?.name ?? "text";
  if (kindOf(model) === "texts") {
    const lines = linesOf(given.text);
    return JSON.stringify({ inputs: [{ name, datatype: "BYTES", shape: [lines.length], data: lines }] });
  }
  try {
    return JSON.stringify({ inputs: JSON.parse(given.text) });
  } catch {
    return '{"inputs": []}';
  }
}

/** How the shown call pays: by a voucher or an API key in the environment. */
export type By = "voucher" | "key";

const header = (by: By): string =>
  by === "key" ? '"Authorization: Bearer $MARKET_KEY"' : '"Market-Voucher: $MARKET_VOUCHER"';

export function curl(model: Model, given: Given, origin: string, by: By): string {
  const url = `${origin}/v2/models/${model.name}/infer`;
  const pay = `  -H ${header(by)}`;
  if (kindOf(model) === "image") {
    // One file is the whole body: the data of the model's only input.
    return [
      `curl -sS ${url} \\`,
      `${pay} \\`,
      "  -H 'Inference-Header-Content-Length: 0' \\",
      `  --data-binary @${quote(given.image?.name ?? "picture.jpg")} --output answer.bin`,
    ].join("\n");
  }
  return [`curl -sS ${url} \\`, `${pay} \\`, "  -H 'Content-Type: application/json' \\", `  -d ${quote(plainBody(model, given))}`].join(
    "\n",
  );
}

const NUMPY: Record<string, string> = {
  ...{ BOOL: "bool", UINT8: "uint8", UINT16: "uint16", UINT32: "uint32", UINT64: "uint64" },
  ...{ INT8: "int8", INT16: "int16", INT32: "int32", INT64: "int64", FP32: "float32", FP64: "float64" },
};

/** The client kit with the wallet and the channel that `market channel open` keeps. */
const PYTHON_HEAD = (origin: string, ...imports: string[]): string[] => [
  "from pathlib import Path",
  "",
  ...imports,
  "from market.sdk.client import Market",
  "from market.sdk.papers import PaperStore",
  "from market.sdk.wallet import Wallet",
  "",
  'wallet = Wallet.load(Path(".market/keys/client.json"), Path(".market/keys/password"))',
  'papers = PaperStore(Path(".market/client/papers.db"))',
  `with Market(${JSON.stringify(origin)}, wallet, papers=papers) as market:`,
];

export function python(model: Model, given: Given, origin: string): string {
  const name = model.inputs?.[0]?.name ?? "text";
  const head = PYTHON_HEAD(origin, "import numpy as np", "");
  const indent = "    ";
  let inputs: string[];
  if (kindOf(model) === "texts") {
    inputs = [`${JSON.stringify(name)}: np.array(${JSON.stringify(linesOf(given.text))}, dtype=object),`];
  } else if (kindOf(model) === "image") {
    const file = JSON.stringify(given.image?.name ?? "picture.jpg");
    inputs = [`${JSON.stringify(name)}: np.array([Path(${file}).read_bytes()], dtype=object),`];
  } else {
    let rows: { name: string; datatype: string; shape: number[]; data: unknown[] }[] = [];
    try {
      rows = JSON.parse(given.text);
    } catch {
      // shown without inputs until the JSON is right
    }
    inputs = rows.map((row) => {
      const type = NUMPY[row.datatype] ? `np.${NUMPY[row.datatype]}` : "object";
      const data = JSON.stringify(row.data).replaceAll("true", "True").replaceAll("false", "False");
      return `${JSON.stringify(row.name)}: np.array(${data}, dtype=${type}).reshape(${JSON.stringify(row.shape)}),`;
    });
  }
  return [
    ...head,
    `${indent}outcome = market.infer(`,
    `${indent}${indent}${JSON.stringify(model.name)},`,
    `${indent}${indent}{`,
    ...inputs.map((line) => `${indent.repeat(3)}${line}`),
    `${indent}${indent}},`,
    `${indent})`,
    `${indent}print(outcome.outputs, outcome.charged)`,
  ].join("\n");
}

const OPENAI_HEAD = (origin: string, by: By): string[] => [
  "import os",
  "",
  "from openai import OpenAI",
  "",
  "client = OpenAI(",
  `    base_url=${JSON.stringify(`${origin}/v1`)},`,
  ...(by === "key"
    ? ['    api_key=os.environ["MARKET_KEY"],']
    : ['    api_key="unused",', '    default_headers={"Market-Voucher": os.environ["MARKET_VOUCHER"]},']),
  ")",
];

/** The call for OpenAI's own client, where its API has one. */
export function openai(model: Model, given: Given, origin: string, by: By): Record<string, string> {
  if (model.task !== "text-embedding") return {};
  const input = JSON.stringify(linesOf(given.text));
  const lines = [
    ...OPENAI_HEAD(origin, by),
    `answer = client.embeddings.create(model=${JSON.stringify(model.name)}, input=${input})`,
    "print([len(row.embedding) for row in answer.data], answer.usage)",
  ];
  return { openai: lines.join("\n") };
}

/** A chat for other programs. */
export function chatCalls(model: Model, messages: Message[], wishes: Wishes, origin: string, by: By): Record<string, string> {
  const body = { model: model.name, messages, max_tokens: wishes.maxTokens, temperature: wishes.temperature };
  const python = JSON.stringify(messages);
  return {
    curl: [
      `curl -sSN ${origin}/v1/chat/completions \\`,
      `  -H ${header(by)} \\`,
      "  -H 'Content-Type: application/json' \\",
      `  -d ${quote(JSON.stringify({ ...body, stream: true }))}`,
    ].join("\n"),
    Python: [
      ...PYTHON_HEAD(origin),
      `    messages = ${python}`,
      `    wishes = {"max_tokens": ${wishes.maxTokens}, "temperature": ${wishes.temperature}}`,
      `    with market.chat(${JSON.stringify(model.name)}, messages, stream=True, **wishes) as stream:`,
      "        for piece in stream:",
      '            print(piece, end="", flush=True)',
      '    print("\\npaid", stream.answer.outcome.charged)',
    ].join("\n"),
    openai: [
      ...OPENAI_HEAD(origin, by),
      "stream = client.chat.completions.create(",
      `    model=${JSON.stringify(model.name)},`,
      `    messages=${python},`,
      `    max_tokens=${wishes.maxTokens},`,
      `    temperature=${wishes.temperature},`,
      "    stream=True,",
      ")",
      "for chunk in stream:",
      '    print(chunk.choices[0].delta.content or "", end="", flush=True)',
    ].join("\n"),
  };
}
