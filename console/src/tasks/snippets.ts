// The same call for other programs; what pays is named, never pasted in.

import type { Model } from "../api.ts";
import type { Message, Wishes } from "../pay/chat.ts";
import { audioInput, rawName, soundShape } from "./sound.ts";
import { kindOf, linesOf, rowsOf, type Given, type Row } from "./tasks.ts";

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** How the shown call pays: by a voucher or an API key in the environment. */
export type By = "voucher" | "key";

/** The call in each language that has a client for it. */
export const calls = (model: Model, given: Given, origin: string, by: By): Record<string, string> => ({
  curl: curl(model, given, origin, by),
  Python: python(model, given, origin),
  ...(model.task === "text-embedding" ? { openai: openai(model, given, origin, by) } : {}),
  ...(kindOf(model) === "ranking" ? { Cohere: cohere(model, given, origin, by) } : {}),
});

const header = (by: By): string =>
  by === "key" ? '"Authorization: Bearer $MARKET_KEY"' : '"Market-Voucher: $MARKET_VOUCHER"';

function curl(model: Model, given: Given, origin: string, by: By): string {
  const url = `${origin}/v2/models/${encodeURIComponent(model.name)}/infer`;
  const pay = `  -H ${header(by)}`;
  const kind = kindOf(model);
  if (kind === "image") {
    // One file is the whole body: the data of the model's only input.
    return [
      `curl -sS ${url} \\`,
      `${pay} \\`,
      "  -H 'Inference-Header-Content-Length: 0' \\",
      `  --data-binary @${quote(given.image?.name ?? "picture.jpg")} --output answer.bin`,
    ].join("\n");
  }
  if (kind === "sound") {
    // The samples follow the JSON as they are.
    const { name, datatype } = audioInput(model)!;
    const shape = shapeOf(model, given);
    const parameters = { binary_data_size: 4 * shape.reduce((product, size) => product * size, 1) };
    const head = JSON.stringify({ inputs: [{ name, datatype, shape, parameters }, ...rows(given)] });
    return [
      `printf %s ${quote(head)} | cat - ${quote(rawName(given.sound))} |`,
      `  curl -sS ${url} \\`,
      `  ${pay} \\`,
      `    -H 'Inference-Header-Content-Length: ${new TextEncoder().encode(head).length}' --data-binary @-`,
    ].join("\n");
  }
  const [where, body] =
    kind === "ranking"
      ? [`${origin}/v1/rerank`, { model: model.name, query: given.query.trim(), documents: linesOf(given.text) }]
      : [url, { inputs: kind === "texts" ? [textRow(model, given)] : rows(given) }];
  return [
    `curl -sS ${where} \\`,
    `${pay} \\`,
    "  -H 'Content-Type: application/json' \\",
    `  -d ${quote(JSON.stringify(body))}`,
  ].join("\n");
}

function textRow(model: Model, given: Given): Row {
  const lines = linesOf(given.text);
  return { name: model.inputs?.[0]?.name ?? "text", datatype: "BYTES", shape: [lines.length], data: lines };
}

/** The tensors typed as JSON; none until the JSON is right. */
function rows(given: Given): Row[] {
  try {
    return rowsOf(given.text);
  } catch {
    return [];
  }
}

/** The shape of the samples; of a second of them until there is a recording. */
const shapeOf = (model: Model, given: Given): number[] =>
  soundShape(audioInput(model)!, given.sound?.samples.length ?? Number(model.options?.sample_rate));

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

function python(model: Model, given: Given, origin: string): string {
  const indent = "    ";
  return [
    ...PYTHON_HEAD(origin, "import numpy as np", ""),
    `${indent}outcome = market.infer(`,
    `${indent}${indent}${JSON.stringify(model.name)},`,
    `${indent}${indent}{`,
    ...inputs(model, given).map((line) => `${indent.repeat(3)}${line}`),
    `${indent}${indent}},`,
    `${indent})`,
    `${indent}print(outcome.outputs, outcome.charged)`,
  ].join("\n");
}

/** The inputs as lines of a Python dictionary. */
function inputs(model: Model, given: Given): string[] {
  const kind = kindOf(model);
  const texts = (name: string, code: string) => `${JSON.stringify(name)}: np.array(${code}, dtype=object),`;
  const lines = JSON.stringify(linesOf(given.text));
  const first = model.inputs?.[0]?.name ?? "text";
  if (kind === "texts") return [texts(first, lines)];
  if (kind === "image") return [texts(first, `[Path(${JSON.stringify(given.image?.name ?? "picture.jpg")}).read_bytes()]`)];
  if (kind === "ranking") {
    const query = JSON.stringify(given.query.trim());
    return [texts("query", `[${query}] * ${linesOf(given.text).length}`), texts("text", lines)];
  }
  const typed = rows(given).map((row) => {
    const type = NUMPY[row.datatype] ? `np.${NUMPY[row.datatype]}` : "object";
    const data = JSON.stringify(row.data).replaceAll("true", "True").replaceAll("false", "False");
    return `${JSON.stringify(row.name)}: np.array(${data}, dtype=${type}).reshape(${JSON.stringify(row.shape)}),`;
  });
  if (kind !== "sound") return typed;
  const file = JSON.stringify(rawName(given.sound));
  const shape = JSON.stringify(shapeOf(model, given));
  return [`${JSON.stringify(audioInput(model)!.name)}: np.fromfile(${file}, "<f4").reshape(${shape}),`, ...typed];
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

function openai(model: Model, given: Given, origin: string, by: By): string {
  const input = JSON.stringify(linesOf(given.text));
  return [
    ...OPENAI_HEAD(origin, by),
    `answer = client.embeddings.create(model=${JSON.stringify(model.name)}, input=${input})`,
    "print([len(row.embedding) for row in answer.data], answer.usage)",
  ].join("\n");
}

function cohere(model: Model, given: Given, origin: string, by: By): string {
  return [
    "import os",
    "",
    "import cohere",
    ...(by === "key" ? [] : ["import httpx"]),
    "",
    "client = cohere.ClientV2(",
    `    base_url=${JSON.stringify(origin)},`,
    ...(by === "key"
      ? ['    api_key=os.environ["MARKET_KEY"],']
      : [
          '    api_key="unused",',
          '    httpx_client=httpx.Client(headers={"Market-Voucher": os.environ["MARKET_VOUCHER"]}),',
        ]),
    ")",
    "answer = client.rerank(",
    `    model=${JSON.stringify(model.name)},`,
    `    query=${JSON.stringify(given.query.trim())},`,
    `    documents=${JSON.stringify(linesOf(given.text))},`,
    ")",
    "print(answer.results)",
  ].join("\n");
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
