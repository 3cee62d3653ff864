// Tells parts of the page that something outside of them has changed.

import { useLayoutEffect, useState } from "preact/hooks";

const heard = new Map<string, Set<() => void>>();

export function listen(name: string, call: () => void): () => void {
  const calls = heard.get(name) ?? new Set();
  heard.set(name, calls.add(call));
  return () => calls.delete(call);
}

export function emit(name: string): void {
  for (const call of heard.get(name) ?? []) call();
}

/** Draws again whenever `name` is emitted. */
export function useSignal(name: string): void {
  const [, turn] = useState(0);
  useLayoutEffect(() => listen(name, () => turn((n) => n + 1)), [name]);
}
