// A channel that this browser pays from: opened and closed by the wallet, spent by a session key that is kept here.
//
// The session key is the channel's signer, so a request asks the wallet nothing. It can spend this channel's deposit at
// this gateway and nothing else; whoever can read this browser's storage can do the same, so deposits should be small.

import { bytesToBigInt, encodeFunctionData, parseSignature, type Address, type Hex } from "viem";
import { generatePrivateKey, privateKeyToAddress, sign } from "viem/accounts";
import { ask, read, Refused, type Channel as ChannelState, type Status } from "../api.ts";
import { money } from "../format.ts";
import { ESCROW, TOKEN } from "../protocol/abi.ts";
import { view, type ChainReader } from "../protocol/chain.ts";
import {
  accessDigest,
  channelId,
  guardedSalt,
  needsAccess,
  refundDigest,
  voucherDigest,
  type Channel,
  type Domain,
} from "../protocol/typed.ts";
import { emit } from "./signal.ts";
import { said, type Wallet } from "./wallet.ts";

const STORE = "console.channels";
const PERMIT_SECONDS = 3_600;
const POLL_MS = 400;
const WAIT_MS = 120_000;

export interface Kept {
  id: Hex;
  chainId: number;
  escrow: Address;
  payer: Address;
  signer: Address;
  gateway: Address;
  salt: string;
  sessionKey: Hex;
  /** The highest total that was ever signed, atomic units. */
  signed: string;
}

const domain = (kept: Kept): Domain => ({ chainId: kept.chainId, escrow: kept.escrow });
const preimage = (kept: Kept): Channel => ({
  payer: kept.payer,
  signer: kept.signer,
  gateway: kept.gateway,
  salt: BigInt(kept.salt),
});

function load(): Kept[] {
  try {
    return JSON.parse(localStorage.getItem(STORE) ?? "[]") as Kept[];
  } catch {
    return [];
  }
}

function save(kept: Kept[]): void {
  localStorage.setItem(STORE, JSON.stringify(kept));
  emit("channel");
}

/** The newest channel of this browser to this gateway. */
export function keptChannel(status: Status): Kept | undefined {
  return load().find(
    (kept) => kept.chainId === status.chainId && kept.escrow === status.escrow && kept.gateway === status.gateway,
  );
}

/** Forgets a channel's session key; what is left in the channel can still leave by an exit of its payer. */
export function forget(id: Hex): void {
  save(load().filter((kept) => kept.id !== id));
}

/** Signs a ceiling with the session key, and remembers it before it leaves; returns the `Market-Voucher` header. */
export async function signVoucher(kept: Kept, cumulative: bigint): Promise<string> {
  const signed = (hash: Hex) => sign({ hash, privateKey: kept.sessionKey, to: "hex" });
  const signature = await signed(voucherDigest(kept.id, cumulative, domain(kept)));
  const access = needsAccess(preimage(kept)) ? `;${await signed(accessDigest(kept.id, domain(kept)))}` : "";
  const all = load();
  const stored = all.find((one) => one.id === kept.id);
  if (stored && BigInt(stored.signed) < cumulative) {
    stored.signed = cumulative.toString();
    save(all);
  }
  return `${kept.id};${cumulative};${signature}${access}`;
}

export type Tell = (step: string) => void;

/** Opens a channel with a deposit of `amount` atomic units; returns once the gateway has seen it. */
export async function open(wallet: Wallet, status: Status, amount: bigint, tell: Tell): Promise<Kept> {
  const sessionKey = generatePrivateKey();
  const channel: Channel = {
    payer: wallet.address,
    signer: privateKeyToAddress(sessionKey),
    gateway: status.gateway as Address,
    salt: guardedSalt(bytesToBigInt(crypto.getRandomValues(new Uint8Array(8)))),
  };
  const escrow = status.escrow as Address;
  const kept: Kept = {
    ...channel,
    salt: channel.salt.toString(),
    id: channelId(channel, { chainId: status.chainId, escrow }),
    chainId: status.chainId,
    escrow,
    sessionKey,
    signed: "0",
  };
  // Kept before the money goes, so that a page that is closed now loses nothing.
  save([kept, ...load()]);
  try {
    await deposit(wallet, status, kept, amount, tell);
  } catch (error) {
    if (!(error instanceof Sent)) forget(kept.id);
    throw said(error instanceof Sent ? error.cause : error);
  }
  tell("Waiting until the gateway has seen the deposit …");
  await seen(kept.id, amount);
  return kept;
}

/** Adds to a channel's deposit. */
export async function topUp(wallet: Wallet, status: Status, kept: Kept, amount: bigint, tell: Tell): Promise<void> {
  const before = await read<ChannelState>(`/market/v1/channels/${kept.id}`);
  try {
    await deposit(wallet, status, kept, amount, tell);
  } catch (error) {
    throw said(error instanceof Sent ? error.cause : error);
  }
  tell("Waiting until the gateway has seen the deposit …");
  await seen(kept.id, BigInt(before.deposited) + amount);
}

/** The transaction is out; what went wrong came after. */
class Sent extends Error {}

async function deposit(wallet: Wallet, status: Status, kept: Kept, amount: bigint, tell: Tell): Promise<void> {
  const reader: ChainReader = {
    source: "wallet",
    call: async (to, data) => (await wallet.request("eth_call", [{ to, data }, "latest"])) as Hex,
  };
  const token = status.token as Address;
  const held = await view<bigint>(reader, TOKEN, token, "balanceOf", [wallet.address]);
  if (held < amount) throw new Error(`The wallet holds ${money(held)} of the token; ${money(amount)} is to be deposited.`);
  const permitted = await permit(wallet, reader, status, token, amount, tell);
  const channel = preimage(kept);
  let data: Hex;
  if (permitted) {
    const { v, r, s, deadline } = permitted;
    data = encodeFunctionData({ abi: ESCROW, functionName: "depositWithPermit", args: [channel, amount, deadline, v, r, s] });
  } else {
    const allowed = await view<bigint>(reader, TOKEN, token, "allowance", [wallet.address, kept.escrow]);
    if (allowed < amount) {
      tell("Confirm the token's approval in the wallet …");
      await send(wallet, token, encodeFunctionData({ abi: TOKEN, functionName: "approve", args: [kept.escrow, amount] }), tell);
    }
    data = encodeFunctionData({ abi: ESCROW, functionName: "deposit", args: [channel, amount] });
  }
  tell("Confirm the deposit in the wallet …");
  await send(wallet, kept.escrow, data, tell);
}

/** Asks for an EIP-2612 permit; undefined where the token knows none. */
async function permit(wallet: Wallet, reader: ChainReader, status: Status, token: Address, amount: bigint, tell: Tell) {
  let name: string;
  let nonce: bigint;
  let version = "1";
  try {
    [name, nonce] = await Promise.all([
      view<string>(reader, TOKEN, token, "name", []),
      view<bigint>(reader, TOKEN, token, "nonces", [wallet.address]),
    ]);
    version = await view<string>(reader, TOKEN, token, "version", []).catch(() => "1");
  } catch {
    return undefined;
  }
  const deadline = BigInt(Math.floor(Date.now() / 1000) + PERMIT_SECONDS);
  const uint = (field: string) => ({ name: field, type: "uint256" });
  const typed = {
    types: {
      EIP712Domain: [
        { name: "name", type: "string" },
        { name: "version", type: "string" },
        uint("chainId"),
        { name: "verifyingContract", type: "address" },
      ],
      Permit: [
        { name: "owner", type: "address" },
        { name: "spender", type: "address" },
        uint("value"),
        uint("nonce"),
        uint("deadline"),
      ],
    },
    primaryType: "Permit",
    domain: { name, version, chainId: status.chainId, verifyingContract: token },
    message: {
      owner: wallet.address,
      spender: status.escrow,
      value: amount.toString(),
      nonce: nonce.toString(),
      deadline: deadline.toString(),
    },
  };
  tell("Sign the permit in the wallet: it lets the escrow take exactly this deposit …");
  const signature = (await wallet.request("eth_signTypedData_v4", [wallet.address, JSON.stringify(typed)])) as Hex;
  const { r, s, yParity } = parseSignature(signature);
  return { r, s, v: 27 + yParity, deadline };
}

async function send(wallet: Wallet, to: Address, data: Hex, tell: Tell): Promise<void> {
  const hash = (await wallet.request("eth_sendTransaction", [{ from: wallet.address, to, data }])) as Hex;
  try {
    tell("Waiting for the chain …");
    const ends = Date.now() + WAIT_MS;
    while (Date.now() < ends) {
      const mined = (await wallet.request("eth_getTransactionReceipt", [hash])) as { status: Hex } | null;
      if (mined) {
        if (BigInt(mined.status) !== 1n) throw new Error(`The transaction ${hash} failed on chain.`);
        return;
      }
      await pause();
    }
    throw new Error(`The transaction ${hash} is not mined yet; look at the wallet.`);
  } catch (error) {
    throw new Sent("sent", { cause: error });
  }
}

const seen = (id: Hex, deposited: bigint) => until(id, (found) => BigInt(found.deposited) >= deposited);

async function until(id: Hex, holds: (found: ChannelState) => boolean): Promise<void> {
  const ends = Date.now() + WAIT_MS;
  while (Date.now() < ends) {
    try {
      const found = await read<ChannelState>(`/market/v1/channels/${id}`);
      if (holds(found)) {
        emit("channel");
        return;
      }
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== "channel-not-found") throw error;
    }
    await pause();
  }
  throw new Error("The gateway has not seen the transaction yet; it counts once its block is confirmed.");
}

const pause = () => new Promise((done) => setTimeout(done, POLL_MS));

/** What is neither charged nor set aside nor on its way out. */
export function free(state: ChannelState): bigint {
  const left =
    BigInt(state.deposited) -
    BigInt(state.exitAmount) -
    BigInt(state.charged) -
    BigInt(state.reserved) -
    BigInt(state.refundPromised);
  return left > 0n ? left : 0n;
}

/** Takes the free money back at once, by the gateway's consent; the session key asks for it, the wallet sends it. */
export async function takeBack(wallet: Wallet, kept: Kept, state: ChannelState, tell: Tell): Promise<void> {
  const amount = free(state);
  const nonce = BigInt(state.refundNonce);
  tell("Asking the gateway for its consent …");
  const asked = await sign({ hash: refundDigest(kept.id, nonce, amount, domain(kept)), privateKey: kept.sessionKey, to: "hex" });
  const answer = await ask(`/market/v1/channels/${kept.id}/refund`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ nonce: Number(nonce), amount: amount.toString(), signature: asked }),
  });
  const { signature } = (await answer.json()) as { signature: Hex };
  tell("Confirm the payout in the wallet …");
  await act(
    wallet,
    kept,
    encodeFunctionData({ abi: ESCROW, functionName: "refund", args: [preimage(kept), nonce, amount, signature] }),
    tell,
  );
  tell("Waiting until the gateway has seen it …");
  await until(kept.id, (found) => found.refundNonce > Number(nonce));
}

/** Starts to take everything unclaimed out; it can be drawn after the escrow's delay. */
export async function startExit(wallet: Wallet, kept: Kept, state: ChannelState, tell: Tell): Promise<void> {
  const amount = BigInt(state.deposited) - BigInt(state.settled);
  tell("Confirm the exit in the wallet …");
  await act(wallet, kept, encodeFunctionData({ abi: ESCROW, functionName: "initiateExit", args: [preimage(kept), amount] }), tell);
}

/** Draws what an exit whose delay is over gives. */
export async function draw(wallet: Wallet, kept: Kept, tell: Tell): Promise<void> {
  tell("Confirm the payout in the wallet …");
  await act(wallet, kept, encodeFunctionData({ abi: ESCROW, functionName: "finalizeExit", args: [preimage(kept)] }), tell);
}

async function act(wallet: Wallet, kept: Kept, data: Hex, tell: Tell): Promise<void> {
  if (wallet.address.toLowerCase() !== kept.payer.toLowerCase()) {
    throw new Error(`Connect the account that opened the channel, ${kept.payer}.`);
  }
  try {
    await send(wallet, kept.escrow, data, tell);
  } catch (error) {
    throw said(error instanceof Sent ? error.cause : error);
  }
  emit("channel");
}
