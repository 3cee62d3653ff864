// A recording for a model that takes samples: read and brought to the model's sample rate by the browser, in one channel.

import type { Model, TensorSpec } from "../api.ts";
import type { Tensor } from "../protocol/tensors.ts";

export interface Sound {
  name: string;
  samples: Float32Array;
  /** Where the browser plays the file from. */
  url: string;
}

/** The rate that a model's manifest names, samples a second. */
export function rateOf(model: Model): number | undefined {
  const rate = model.options?.sample_rate;
  return typeof rate === "number" ? rate : undefined;
}

/** The input that takes the samples, if the model takes any. */
export function audioInput(model: Model): TensorSpec | undefined {
  if (rateOf(model) === undefined) return undefined;
  const named = model.options?.audio_input;
  const input = named === undefined ? model.inputs?.[0] : model.inputs?.find(({ name }) => name === named);
  return input?.datatype === "FP32" ? input : undefined;
}

/** Reads a file of sound. Throws what a person should read. */
export async function readSound(file: File, rate: number): Promise<Sound> {
  const bytes = await file.arrayBuffer();
  let decoded: AudioBuffer;
  try {
    decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new Error(`This browser cannot read ${file.name} as sound.`);
  }
  const samples = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    const one = decoded.getChannelData(channel);
    for (let at = 0; at < one.length; at++) samples[at]! += one[at]! / decoded.numberOfChannels;
  }
  return { name: file.name, samples, url: URL.createObjectURL(file) };
}

/** How the saved samples are named. */
export const rawName = (sound: Sound | null): string => `${(sound?.name ?? "recording").replace(/\.[^.]*$/, "")}.f32`;

/** The shape that samples take: one row, or as many rows as they fill where a row has a fixed length. */
export function soundShape(spec: TensorSpec, samples: number): number[] {
  const row = spec.shape.at(-1) ?? -1;
  const rows = row < 0 ? 1 : Math.max(1, Math.ceil(samples / row));
  return spec.shape.map((size, axis) => {
    if (axis === spec.shape.length - 1) return size < 0 ? samples : size;
    return size < 0 ? (axis === 0 ? rows : 1) : size;
  });
}

/** The samples as a tensor; what does not fill the last row is silence, what is too much is left out. */
export function soundTensor(spec: TensorSpec, sound: Sound): Tensor {
  const shape = soundShape(spec, sound.samples.length);
  const data = new Float32Array(shape.reduce((product, size) => product * size, 1));
  data.set(sound.samples.subarray(0, data.length));
  return { name: spec.name, datatype: "FP32", shape, data: new Uint8Array(data.buffer) };
}
