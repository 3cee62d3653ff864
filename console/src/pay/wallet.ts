// The browser's wallet by EIP-1193, found by EIP-6963 or as window.ethereum. It is asked for nothing before a click.

import type { Address } from "viem";
import { emit, listen } from "./signal.ts";

interface Provider {
  request: (call: { method: string; params?: unknown[] }) => Promise<unknown>;
  on?: (event: string, heard: (value: unknown) => void) => void;
}

export interface Wallet {
  address: Address;
  chainId: number;
  request: (method: string, params?: unknown[]) => Promise<unknown>;
}

const announced = new Map<string, { name: string; provider: Provider }>();
let connected: Wallet | undefined;
let watching: Provider | undefined;

if (typeof window !== "undefined") {
  window.addEventListener("eip6963:announceProvider", (event) => {
    const { info, provider } = (event as CustomEvent<{ info: { uuid: string; name: string }; provider: Provider }>).detail;
    announced.set(info.uuid, { name: info.name, provider });
    emit("wallet");
  });
  window.dispatchEvent(new Event("eip6963:requestProvider"));
}

const injected = (): Provider | undefined => (window as unknown as { ethereum?: Provider }).ethereum;

/** The wallets there are, by id and name. */
export function wallets(): { id: string; name: string }[] {
  const found = [...announced].map(([id, { name }]) => ({ id, name }));
  return found.length === 0 && injected() ? [{ id: "injected", name: "Browser wallet" }] : found;
}

export const wallet = (): Wallet | undefined => connected;
export const onWallet = (heard: () => void): (() => void) => listen("wallet", heard);

/** Asks a wallet for an account, and to change to the gateway's chain if it is on another. */
export async function connect(id: string, chainId: number): Promise<Wallet> {
  const provider = announced.get(id)?.provider ?? injected();
  if (!provider) throw new Error("No wallet is installed in this browser.");
  const request = (method: string, params: unknown[] = []) => provider.request({ method, params });
  const [address] = (await request("eth_requestAccounts")) as Address[];
  if (!address) throw new Error("The wallet gave no account.");
  const hex = `0x${chainId.toString(16)}`;
  if (Number(await request("eth_chainId")) !== chainId) {
    try {
      await request("wallet_switchEthereumChain", [{ chainId: hex }]);
    } catch {
      throw new Error(`Change the wallet to chain ${chainId} and connect again; add the network to it if it is new.`);
    }
  }
  connected = { address, chainId: Number(await request("eth_chainId")), request };
  if (watching !== provider) {
    watching = provider;
    for (const event of ["accountsChanged", "chainChanged", "disconnect"]) provider.on?.(event, disconnect);
  }
  emit("wallet");
  return connected;
}

export function disconnect(): void {
  connected = undefined;
  emit("wallet");
}

/** A wallet's refusal in words; its errors are plain objects. */
export function said(error: unknown): Error {
  if (error instanceof Error) return error;
  const { code, message } = (error ?? {}) as { code?: number; message?: string };
  return new Error(code === 4001 ? "You declined in the wallet." : (message ?? "The wallet refused."));
}
