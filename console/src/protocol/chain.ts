// Reads of the chain: by the wallet's own node when one is connected to the right chain, else through the gateway.

import { decodeFunctionResult, encodeFunctionData, type Abi, type Address, type Hex } from "viem";
import { ask } from "../api.ts";
import { wallet } from "../pay/wallet.ts";

export interface ChainReader {
  /** Whose word the answers are. */
  source: "wallet" | "gateway";
  call: (to: Address, data: Hex) => Promise<Hex>;
}

export async function chainReader(chainId: number): Promise<ChainReader> {
  const connected = wallet();
  if (connected && connected.chainId === chainId) {
    return {
      source: "wallet",
      call: async (to, data) => (await connected.request("eth_call", [{ to, data }, "latest"])) as Hex,
    };
  }
  return {
    source: "gateway",
    call: async (to, data) => {
      const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "eth_call", params: [{ to, data }, "latest"] });
      const headers = { "Content-Type": "application/json" };
      const answer = await (await ask("/market/v1/chain", { method: "POST", body, headers })).json();
      if (answer.error) throw new Error(String(answer.error.message ?? "The node refused the call."));
      return answer.result as Hex;
    },
  };
}

/** Calls one view function; the type of the result is the caller's knowledge. */
export async function view<T>(reader: ChainReader, abi: Abi, to: Address, functionName: string, args: unknown[]): Promise<T> {
  const data = await reader.call(to, encodeFunctionData({ abi, functionName, args }));
  return decodeFunctionResult({ abi, functionName, data }) as T;
}
