// Is a receipt worth what it says? The same questions as `market receipts verify` asks, answered in the browser.
//
// The gateway's word is used for nothing that can be computed: digest, signers, split and Merkle path are worked out
// here. What only the chain knows is read by the given reader, and the page says whose node that is.

import type { Address, Hex } from "viem";
import type { SettledAt, Status } from "../api.ts";
import { money, short } from "../format.ts";
import { ESCROW, MODELS, WORKERS } from "./abi.ts";
import { view, type ChainReader } from "./chain.ts";
import { proves } from "./merkle.ts";
import { receiptDigest, receiptSigner, type Domain, type Paper } from "./typed.ts";

export interface Check {
  name: string;
  /** undefined: cannot be answered yet. */
  holds: boolean | undefined;
  detail: string;
}

const PPM = 1_000_000n;
const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();

export const domainOf = (status: Status): Domain => ({ chainId: status.chainId, escrow: status.escrow as Address });

async function signer(digest: Hex, signature: Hex, domain: Domain): Promise<string> {
  try {
    return await receiptSigner(digest, signature, domain);
  } catch {
    return "nobody";
  }
}

/** One signature may be for many receipts, each with its proof. */
const how = (signature: Hex): string => (signature.length > 132 ? "Signature, in a batch," : "Signature");

/** What needs no chain: digest, both signatures, amounts that add up. */
export async function checkPaper(paper: Paper, domain: Domain, statedDigest?: string): Promise<Check[]> {
  const { receipt } = paper;
  const digest = receiptDigest(receipt, domain);
  const byWorker = await signer(digest, paper.workerSignature, domain);
  const byGateway = await signer(digest, paper.gatewaySignature, domain);
  const shares = receipt.workerAmount + receipt.ownerAmount;
  const checks: Check[] = [
    {
      name: "Signed by the worker",
      holds: same(byWorker, receipt.worker),
      detail: `${how(paper.workerSignature)} of ${short(byWorker)} over the digest ${short(digest)}; the receipt names ${short(receipt.worker)}.`,
    },
    {
      name: "Countersigned by the gateway",
      holds: same(byGateway, receipt.gateway),
      detail: `${how(paper.gatewaySignature)} of ${short(byGateway)} over the same digest; the receipt names ${short(receipt.gateway)}.`,
    },
    {
      name: "Amounts add up",
      holds: shares <= receipt.price && receipt.price <= receipt.cumulative,
      detail: `${money(receipt.price)} = worker ${money(receipt.workerAmount)} + owner ${money(receipt.ownerAmount)} + gateway ${money(receipt.price - shares)}.`,
    },
  ];
  if (statedDigest !== undefined) {
    checks.unshift({
      name: "Digest",
      holds: same(digest, statedDigest),
      detail: `EIP-712 digest of the fields for chain ${domain.chainId}: ${digest}.`,
    });
  }
  return checks;
}

/** What the chain says: parties, the batch's root, the proof, the payment. */
export async function checkChain(
  paper: Paper,
  settlement: SettledAt | null,
  status: Status,
  reader: ChainReader,
): Promise<Check[]> {
  const { receipt } = paper;
  const escrow = status.escrow as Address;
  const digest = receiptDigest(receipt, domainOf(status));
  const [worker, model] = await Promise.all([
    view<{ operator: string; stake: bigint }>(reader, WORKERS, status.contracts.worker_registry as Address, "workers", [
      receipt.worker,
    ]),
    view<{ owner: string; name: string; royaltyPpm: number }>(
      reader,
      MODELS,
      status.contracts.model_registry as Address,
      "models",
      [receipt.modelId],
    ),
  ]);
  const royalty = (receipt.price * BigInt(model.royaltyPpm)) / PPM;
  const checks: Check[] = [
    {
      name: "Worker is registered",
      holds: BigInt(worker.operator) !== 0n,
      detail: `Operator ${short(worker.operator)}, stake ${money(worker.stake)}.`,
    },
    {
      name: "Model is listed, royalty as listed",
      holds: BigInt(model.owner) !== 0n && royalty === receipt.ownerAmount,
      detail: `“${model.name}” of ${short(model.owner)}; ${money(royalty)} of ${money(receipt.price)} is its royalty.`,
    },
  ];
  if (settlement === null) {
    checks.push({ name: "Settled on chain", holds: undefined, detail: "Not yet: it waits for the gateway's next batch." });
    return checks;
  }
  const epoch = BigInt(settlement.epoch);
  const proof = settlement.proof as Hex[];
  const [root, agrees, channel] = await Promise.all([
    view<Hex>(reader, ESCROW, escrow, "settlements", [receipt.gateway, epoch]),
    view<boolean>(reader, ESCROW, escrow, "verifyReceipt", [receipt.gateway, epoch, digest, proof]),
    view<readonly [bigint, bigint, bigint, bigint]>(reader, ESCROW, escrow, "channels", [receipt.channelId]),
  ]);
  checks.push(
    {
      name: "Root is on chain",
      holds: BigInt(root) !== 0n && same(root, settlement.root),
      detail: `Batch ${settlement.epoch} of the gateway has root ${root}.`,
    },
    {
      name: "Merkle proof leads to that root",
      holds: proves(root, digest, proof),
      detail: `Computed here from the receipt's digest and ${proof.length} sibling ${proof.length === 1 ? "hash" : "hashes"}.`,
    },
    { name: "The contract agrees", holds: agrees, detail: "InferenceEscrow.verifyReceipt says the receipt is in the batch." },
    {
      name: "Paid on chain",
      holds: channel[1] >= receipt.cumulative,
      detail: `The channel has paid ${money(channel[1])}; ${money(receipt.cumulative)} was charged up to this receipt.`,
    },
  );
  return checks;
}
