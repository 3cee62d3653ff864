// Tensors as bytes, and the one byte string whose SHA-256 a receipt carries: contracts/protocol/tensors.py in TypeScript.

import { sha256, type Hex } from "viem";

const DATATYPES = [
  ...["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"],
  ...["FP16", "FP32", "FP64", "BYTES", "BF16"],
];
const ITEM_BYTES: Record<string, number> = {
  ...{ BOOL: 1, UINT8: 1, UINT16: 2, UINT32: 4, UINT64: 8, INT8: 1, INT16: 2, INT32: 4, INT64: 8 },
  ...{ FP16: 2, FP32: 4, FP64: 8, BF16: 2 },
};

export interface Tensor {
  name: string;
  datatype: string;
  shape: number[];
  data: Uint8Array;
}

export type Parameters = Record<string, string | number | boolean>;

const utf8 = new TextEncoder();

export function joined(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

/** BYTES elements: each behind its length. */
export function packBytes(items: (string | Uint8Array)[]): Uint8Array {
  return joined(
    items.flatMap((item) => {
      const raw = typeof item === "string" ? utf8.encode(item) : item;
      const length = new Uint8Array(4);
      new DataView(length.buffer).setUint32(0, raw.length, true);
      return [length, raw];
    }),
  );
}

export function unpackBytes(data: Uint8Array): Uint8Array[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const items: Uint8Array[] = [];
  for (let offset = 0; offset < data.length; ) {
    const size = view.getUint32(offset, true);
    items.push(data.subarray(offset + 4, (offset += 4 + size)));
  }
  return items;
}

export const texts = (tensor: Tensor): string[] => unpackBytes(tensor.data).map((raw) => new TextDecoder().decode(raw));

/** Numbers of a tensor; 64-bit integers lose what a double cannot hold, and are for show only. */
export function numbers(tensor: Tensor): number[] {
  const view = new DataView(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  const size = ITEM_BYTES[tensor.datatype] ?? 0;
  const read: Record<string, (at: number) => number> = {
    BOOL: (at) => view.getUint8(at),
    UINT8: (at) => view.getUint8(at),
    UINT16: (at) => view.getUint16(at, true),
    UINT32: (at) => view.getUint32(at, true),
    UINT64: (at) => Number(view.getBigUint64(at, true)),
    INT8: (at) => view.getInt8(at),
    INT16: (at) => view.getInt16(at, true),
    INT32: (at) => view.getInt32(at, true),
    INT64: (at) => Number(view.getBigInt64(at, true)),
    FP16: (at) => half(view.getUint16(at, true)),
    FP32: (at) => view.getFloat32(at, true),
    FP64: (at) => view.getFloat64(at, true),
    BF16: (at) => brain(view.getUint16(at, true)),
  };
  const one = read[tensor.datatype];
  if (!one) throw new Error(`${tensor.datatype} is not shown here.`);
  return Array.from({ length: Math.floor(view.byteLength / size) }, (_, index) => one(index * size));
}

/** A half's bits: one of sign, five of the exponent, ten of the fraction. */
function half(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 31 ? (fraction ? NaN : Infinity) : exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
  return bits >> 15 ? -size : size;
}

/** The upper half of a float32's bits. */
function brain(bits: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint16(0, bits);
  return view.getFloat32(0);
}

/** A tensor from JSON's values, flat or nested. */
export function fromValues(name: string, datatype: string, shape: number[], values: unknown): Tensor {
  const flat = (Array.isArray(values) ? values.flat(Infinity) : [values]) as unknown[];
  const elements = shape.reduce((product, size) => product * size, 1);
  if (flat.length !== elements) {
    throw new Error(`${name}: ${flat.length} values where the shape [${shape.join(", ")}] takes ${elements}.`);
  }
  if (datatype === "BYTES") {
    if (!flat.every((value) => typeof value === "string")) throw new Error(`${name}: BYTES takes texts.`);
    return { name, datatype, shape, data: packBytes(flat as string[]) };
  }
  const size = ITEM_BYTES[datatype];
  if (size === undefined || datatype === "FP16" || datatype === "BF16") {
    throw new Error(`${name}: ${datatype} cannot be typed in here.`);
  }
  const data = new Uint8Array(elements * size);
  const view = new DataView(data.buffer);
  for (const [index, value] of flat.entries()) write(view, index * size, datatype, value, name);
  return { name, datatype, shape, data };
}

function write(view: DataView, at: number, datatype: string, value: unknown, name: string): void {
  if (datatype === "BOOL") {
    if (typeof value !== "boolean") throw new Error(`${name}: BOOL takes true and false.`);
    view.setUint8(at, value ? 1 : 0);
    return;
  }
  if (typeof value !== "number" || !Number.isFinite(value)) throw new Error(`${name}: ${String(value)} is not a number.`);
  if (datatype === "FP32") view.setFloat32(at, value, true);
  else if (datatype === "FP64") view.setFloat64(at, value, true);
  else {
    const bits = BigInt(ITEM_BYTES[datatype]! * 8);
    if (!Number.isSafeInteger(value)) throw new Error(`${name}: ${value} is not a whole number that is exact here.`);
    const whole = BigInt(value);
    const fits = datatype.startsWith("U") ? BigInt.asUintN(Number(bits), whole) : BigInt.asIntN(Number(bits), whole);
    if (fits !== whole) throw new Error(`${name}: ${value} does not fit ${datatype}.`);
    for (let byte = 0n; byte < bits / 8n; byte++) {
      view.setUint8(at + Number(byte), Number((BigInt.asUintN(64, whole) >> (8n * byte)) & 0xffn));
    }
  }
}

// Parameters that the gateway makes fractions of, which Python writes with their point: 1.0.
const FRACTIONS = ["temperature", "top_p"];

/** JSON with sorted keys and no white space, as Python writes it. */
export function canonicalJson(parameters: Parameters): string {
  const written = (key: string): string => {
    const value = parameters[key];
    return FRACTIONS.includes(key) && Number.isInteger(value) ? `${value}.0` : JSON.stringify(value);
  };
  const sorted = Object.keys(parameters).sort();
  return `{${sorted.map((key) => `${JSON.stringify(key)}:${written(key)}`).join(",")}}`;
}

/** The canonical bytes of tensors and parameters. */
export function encodeTensors(tensors: Tensor[], parameters: Parameters = {}): Uint8Array {
  const head = utf8.encode(canonicalJson(parameters));
  const parts: Uint8Array[] = [utf8.encode("IMT1"), little(head.length, 4), head, little(tensors.length, 2)];
  const named = tensors.map((tensor) => ({ tensor, name: utf8.encode(tensor.name) }));
  named.sort((a, b) => compare(a.name, b.name));
  for (const { tensor, name } of named) {
    parts.push(little(name.length, 2), name, Uint8Array.of(DATATYPES.indexOf(tensor.datatype), tensor.shape.length));
    for (const size of tensor.shape) parts.push(little(size, 8));
    parts.push(little(tensor.data.length, 8), tensor.data);
  }
  return joined(parts);
}

export const contentHash = (tensors: Tensor[], parameters: Parameters = {}): Hex => sha256(encodeTensors(tensors, parameters));

function compare(a: Uint8Array, b: Uint8Array): number {
  for (let at = 0; at < Math.min(a.length, b.length); at++) if (a[at] !== b[at]) return a[at]! - b[at]!;
  return a.length - b.length;
}

function little(value: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  let left = BigInt(value);
  for (let at = 0; at < bytes; at++, left >>= 8n) out[at] = Number(left & 0xffn);
  return out;
}

// --- the Open Inference Protocol's bodies, with raw data behind the JSON ---------------------------------------------

const LENGTH = "Inference-Header-Content-Length";

export interface Body {
  headers: Record<string, string>;
  bytes: Uint8Array;
}

/** A request whose outputs shall come raw, so that they are hashed exactly as they are. */
export function encodeBody(tensors: Tensor[], parameters: Parameters = {}): Body {
  const head = utf8.encode(
    JSON.stringify({
      parameters: { ...parameters, binary_data_output: true },
      inputs: tensors.map(({ name, datatype, shape, data }) => ({
        ...{ name, datatype, shape },
        parameters: { binary_data_size: data.length },
      })),
    }),
  );
  return {
    headers: { "Content-Type": "application/octet-stream", [LENGTH]: String(head.length) },
    bytes: joined([head, ...tensors.map((tensor) => tensor.data)]),
  };
}

export interface Decoded {
  outputs: Tensor[];
  parameters: Parameters;
}

export function decodeBody(headers: Headers, body: Uint8Array): Decoded {
  const length = Number(headers.get(LENGTH) ?? body.length);
  const head = JSON.parse(new TextDecoder().decode(body.subarray(0, length)));
  let offset = length;
  const outputs = (head.outputs as Record<string, any>[]).map((row): Tensor => {
    const size = row.parameters?.binary_data_size as number | undefined;
    if (size === undefined) return fromValues(row.name, row.datatype, row.shape, row.data);
    // A copy, since a view on 8-byte numbers may start anywhere.
    return { name: row.name, datatype: row.datatype, shape: row.shape, data: body.slice(offset, (offset += size)) };
  });
  return { outputs, parameters: head.parameters ?? {} };
}
