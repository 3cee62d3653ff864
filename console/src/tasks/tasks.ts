// What each task takes from a form and makes of the answer; a task that is not here is used by its tensors.

import type { Model } from "../api.ts";
import { fromValues, packBytes, type Tensor } from "../protocol/tensors.ts";
import { audioInput, rateOf, soundTensor, type Sound } from "./sound.ts";

/** What a person gave: lines of text, a question to rank them by, the JSON of tensors, a picture, a recording. */
export interface Given {
  text: string;
  query: string;
  image: { name: string; bytes: Uint8Array; url: string } | null;
  sound: Sound | null;
}

export type Kind = "tensor" | "texts" | "ranking" | "image" | "sound" | "chat";

const KINDS: Record<string, Kind> = {
  "text-embedding": "texts",
  "text-classification": "texts",
  "text-ranking": "ranking",
  "image-classification": "image",
  "text-generation": "chat",
};

export const kindOf = (model: Model): Kind => KINDS[model.task ?? ""] ?? (audioInput(model) ? "sound" : "tensor");

export const labelsOf = (model: Model): string[] => {
  const labels = model.options?.labels;
  return Array.isArray(labels) ? labels.map(String) : [];
};

const SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again."];
const QUERY = "Where does the cat sit?";

/** Something to begin with. */
export const example = (model: Model): Given => ({ text: exampleText(model), query: QUERY, image: null, sound: null });

function exampleText(model: Model): string {
  const kind = kindOf(model);
  if (kind === "texts" || kind === "ranking") return SENTENCES.join("\n");
  const typed = kind === "image" ? [] : (model.inputs ?? []).filter((input) => input !== audioInput(model));
  if (typed.length === 0) return "";
  const inputs = typed.map(({ name, datatype, shape }) => {
    const sizes = shape.map((size, axis) => (size >= 0 ? size : axis === model.batchAxis ? 1 : 3));
    const count = sizes.reduce((product, size) => product * size, 1);
    const rate = shape.length === 0 && /^(sr|sample_?rate)$/.test(name) ? rateOf(model) : undefined;
    return { name, datatype, shape: sizes, data: rate === undefined ? exampleData(name, datatype, count) : [rate] };
  });
  return `[\n${inputs.map((input) => `  ${JSON.stringify(input)}`).join(",\n")}\n]`;
}

function exampleData(name: string, datatype: string, count: number): unknown[] {
  if (name === "input_ids" && count === 3) return [101, 7592, 102];
  const one = datatype === "BYTES" ? "text" : datatype === "BOOL" ? true : name.includes("mask") ? 1 : 0;
  return Array.from({ length: Math.min(count, 4_096) }, () => one);
}

/** Nothing is wrong yet: something is still to be given. */
export class Unready extends Error {}

/** The tensors that a request sends. Throws what a person should read. */
export function tensorsOf(model: Model, given: Given): Tensor[] {
  const kind = kindOf(model);
  const input = model.inputs?.[0];
  if (!input) throw new Error("No live worker serves this model.");
  if (kind === "texts") return [textTensor(input.name, someLines(given.text, "Type at least one text."))];
  if (kind === "ranking") {
    const lines = someLines(given.text, "Type at least one document.");
    const query = given.query.trim();
    if (query === "") throw new Unready("Type what to rank the documents by.");
    return [textTensor("query", lines.map(() => query)), textTensor("text", lines)];
  }
  if (kind === "image") {
    if (!given.image) throw new Unready("Choose a picture.");
    return [{ name: input.name, datatype: "BYTES", shape: [1], data: packBytes([given.image.bytes]) }];
  }
  const typed = given.text.trim() === "" && kind === "sound" ? [] : rowsOf(given.text);
  const tensors = typed.map(({ name, datatype, shape, data }) => fromValues(name, datatype, shape, data));
  if (kind !== "sound") return tensors;
  if (!given.sound) throw new Unready("Choose a recording.");
  return [soundTensor(audioInput(model)!, given.sound), ...tensors];
}

const textTensor = (name: string, lines: string[]): Tensor => ({
  ...{ name, datatype: "BYTES", shape: [lines.length] },
  data: packBytes(lines),
});

function someLines(text: string, complaint: string): string[] {
  const lines = linesOf(text);
  if (lines.length === 0) throw new Unready(complaint);
  return lines;
}

export interface Row {
  name: string;
  datatype: string;
  shape: number[];
  data: unknown;
}

/** The tensors typed as JSON. Throws what a person should read. */
export function rowsOf(text: string): Row[] {
  let rows: unknown;
  try {
    rows = JSON.parse(text);
  } catch (error) {
    throw new Error(`Not JSON: ${(error as Error).message}`);
  }
  if (!Array.isArray(rows)) throw new Error("Expected a list of tensors.");
  return rows.map((row: Partial<Row> | null, index) => {
    const { name, datatype, shape, data } = row ?? {};
    if (typeof name !== "string" || typeof datatype !== "string" || !Array.isArray(shape)) {
      throw new Error(`Tensor ${index + 1} needs name, datatype, shape and data.`);
    }
    return { name, datatype, shape, data };
  });
}

export const linesOf = (text: string): string[] =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
