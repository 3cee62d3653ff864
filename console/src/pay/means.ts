// What pays: an API key if one was given, else the channel of this browser.

import type { Hex } from "viem";
import { ask, type Status } from "../api.ts";
import { keptChannel, type Kept } from "./channel.ts";
import { emit } from "./signal.ts";

/** A key as the gateway describes it to whoever holds it. */
export interface KeyFacts {
  keyHash: Hex;
  channelId: Hex;
  name: string;
  models: string[];
  spendingLimit: string;
  spent: string;
  expiresAt: number;
  revokedAt: number | null;
}

export interface UsedKey {
  secret: string;
  channelId: Hex;
}

export type Means = { channel: Kept; key?: undefined } | { key: UsedKey; channel?: undefined };

// Until the tab is closed, and for this tab alone.
const STORE = "console.key";

export function usedKey(): UsedKey | undefined {
  try {
    return JSON.parse(sessionStorage.getItem(STORE) ?? "null") ?? undefined;
  } catch {
    return undefined;
  }
}

export function means(status: Status): Means | undefined {
  const key = usedKey();
  if (key) return { key };
  const channel = keptChannel(status);
  return channel && { channel };
}

export const meansId = (found: Means): Hex => (found.key ? found.key.channelId : found.channel.id);

export const bearer = (secret: string): Record<string, string> => ({ Authorization: `Bearer ${secret}` });

export async function keyFacts(secret: string): Promise<KeyFacts> {
  const [found] = (await (await ask("/market/v1/keys", { headers: bearer(secret) })).json()) as KeyFacts[];
  if (!found) throw new Error("The gateway does not know this key.");
  return found;
}

/** Asks the gateway what the key may do, and pays by it from now on. */
export async function useKey(secret: string): Promise<void> {
  const { channelId } = await keyFacts(secret);
  sessionStorage.setItem(STORE, JSON.stringify({ secret, channelId }));
  emit("channel");
}

export function dropKey(): void {
  sessionStorage.removeItem(STORE);
  emit("channel");
}
