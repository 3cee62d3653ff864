// What each task takes from a form and makes of the answer; a task that is not here is used by its tensors.

import type { Model } from "../api.ts";
import { fromValues, packBytes, type Tensor } from "../protocol/tensors.ts";

/** What a person gave: lines of text, the JSON of tensors, or a picture. */
export interface Given {
  text: string;
  image: { name: string; bytes: Uint8Array; url: string } | null;
}

export type Kind = "tensor" | "texts" | "image" | "chat";

export const kindOf = (model: Model): Kind =>
  model.task === "text-embedding" || model.task === "text-classification"
    ? "texts"
    : model.task === "image-classification"
      ? "image"
      : model.task === "text-generation"
        ? "chat"
        : "tensor";

export const labelsOf = (model: Model): string[] => {
  const labels = model.options?.labels;
  return Array.isArray(labels) ? labels.map(String) : [];
};

const SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again."];

/** Something to begin with. */
export function example(model: Model): string {
  if (kindOf(model) === "texts") return SENTENCES.join("\n");
  if (kindOf(model) === "image" || !model.inputs) return "";
  const inputs = model.inputs.map(({ name, datatype, shape }) => {
    const sizes = shape.map((size, axis) => (size >= 0 ? size : axis === model.batchAxis ? 1 : 3));
    const count = sizes.reduce((product, size) => product * size, 1);
    return { name, datatype, shape: sizes, data: exampleData(name, datatype, count) };
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
  if (kind === "texts") {
    const lines = linesOf(given.text);
    if (lines.length === 0) throw new Unready("Type at least one text.");
    return [{ name: input.name, datatype: "BYTES", shape: [lines.length], data: packBytes(lines) }];
  }
  if (kind === "image") {
    if (!given.image) throw new Unready("Choose a picture.");
    return [{ name: input.name, datatype: "BYTES", shape: [1], data: packBytes([given.image.bytes]) }];
  }
  let rows: unknown;
  try {
    rows = JSON.parse(given.text);
  } catch (error) {
    throw new Error(`Not JSON: ${(error as Error).message}`);
  }
  if (!Array.isArray(rows)) throw new Error("Expected a list of tensors.");
  return rows.map((row: Record<string, unknown>, index) => {
    const { name, datatype, shape, data } = row ?? {};
    if (typeof name !== "string" || typeof datatype !== "string" || !Array.isArray(shape)) {
      throw new Error(`Tensor ${index + 1} needs name, datatype, shape and data.`);
    }
    return fromValues(name, datatype, shape as number[], data);
  });
}

export const linesOf = (text: string): string[] =>
  text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
