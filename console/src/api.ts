// The gateway's public read API, typed; the console uses nothing that other clients cannot use.

import { useEffect, useRef, useState } from "preact/hooks";

export interface TensorSpec {
  name: string;
  datatype: string;
  shape: number[];
}

export interface Performance {
  served: number;
  failed: number;
  successRate: number | null;
  errors: Record<string, number>;
  p50Ms: number | null;
  p95Ms: number | null;
}

export interface Offer {
  modelId: string;
  worker: string;
  unit: string;
  unitPrice: string;
  expiresAt: number;
}

export interface Model {
  name: string;
  modelId: string;
  owner: string;
  royaltyPpm: number;
  minPrice: string;
  maxPrice: string;
  unit: string;
  uri: string;
  active: boolean;
  task: string | null;
  license: string | null;
  batchAxis: number | null;
  maxBatch: number | null;
  inputs: TensorSpec[] | null;
  outputs: TensorSpec[] | null;
  options: Record<string, unknown> | null;
  offers: Offer[];
  regions: string[];
  performance: Performance;
}

export interface Worker {
  worker: string;
  operator: string;
  stake: string;
  thawing: string;
  active: boolean;
  region: string;
  hardware: string;
  endpoint: string;
  live: boolean;
  inFlight: number | null;
  provider: string | null;
  models: string[];
}

export interface Minute {
  at: number;
  served: number;
  failed: number;
  meanMs: number | null;
}

export interface WorkerInsight extends Worker {
  performance: Performance;
  history: Minute[];
  byModel: { modelId: string; performance: Performance }[];
}

export interface ModelInsight {
  modelId: string;
  performance: Performance;
  history: Minute[];
  servedBy: (Worker & { unitPrice: string; performance: Performance })[];
}

export interface Bucket {
  at: number;
  modelId: string;
  requests: number;
  price: string;
  workerAmount: string;
  ownerAmount: string;
}

export interface Past {
  since: number;
  stepSeconds: number;
  complete: boolean;
  buckets: Bucket[];
}

export interface Standing {
  headBlock: number | null;
  indexedBlock: number | null;
  blocksBehind: number | null;
  unsettledReceipts: number;
  unsettledValue: string;
  settleIntervalSeconds: number;
  settleValue: string;
  reserve: string;
  arrears: string;
}

export interface Settlement {
  gateway: string;
  epoch: string;
  root: string;
  firstSeq: string;
  count: number;
  transactionHash: string;
  block: number;
  debited: string | null;
  credited: string | null;
  gasUsed: number | null;
  gasPerReceipt: number | null;
}

export interface Payee {
  payee: string;
  earned: string;
  credited: string;
  withdrawn: string;
}

export interface Earnings {
  owner: string;
  total: string;
  models: { role: string; modelId: string; requests: number; earned: string }[];
}

export interface Status {
  version: string;
  gateway: string;
  chainId: number;
  escrow: string;
  token: string;
  contracts: Record<string, string>;
  feePpm: number;
  confirmations: number;
  exposureCap: string;
  indexedBlock: number;
  liveWorkers: number;
  models: number;
  lastEpoch: number;
}

export interface Channel {
  channelId: string;
  payer: string;
  signer: string;
  gateway: string;
  salt: string;
  deposited: string;
  settled: string;
  exitAmount: string;
  exitAt: number;
  charged: string;
  reserved: string;
  available: string;
  required: string;
  refundNonce: number;
  refundPromised: string;
}

export interface SettledAt {
  epoch: string;
  root: string;
  index: number;
  proof: string[];
  transactionHash: string | null;
}

export interface StoredReceipt {
  receipt: Record<string, string>;
  digest: string;
  workerSignature: string;
  gatewaySignature: string;
  position: number;
  settlement: SettledAt | null;
}

/** What the gateway refused, with its stable code and what to do about it. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly problem: { code?: string; detail?: string; remedy?: string; field?: string; [key: string]: unknown },
  ) {
    super(problem.detail ?? `The gateway answered ${status}.`);
  }

  get code(): string {
    return this.problem.code ?? String(this.status);
  }
}

/** A refusal from its body: the market's own problem, or on the OpenAI routes an `error` object. */
export const refused = (status: number, body: Refused["problem"] & { error?: unknown }): Refused => {
  const { error } = body;
  if (typeof error !== "object" || error === null) return new Refused(status, body);
  const { code, message } = error as { code: string; message: string };
  return new Refused(status, { code, detail: message });
};

export class Unreachable extends Error {
  constructor() {
    super("The gateway does not answer.");
  }
}

/** The line went in the middle of an answer, so that this browser does not know whether it was charged. */
export class Broken extends Error {
  constructor(readonly requestId: string) {
    super("The answer broke off. At most what had arrived is charged; if it was, there is a receipt.");
  }
}

export async function ask(path: string, init?: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, init);
  } catch {
    throw new Unreachable();
  }
  if (!answer.ok) throw refused(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

export async function read<T>(path: string): Promise<T> {
  return (await (await ask(path)).json()) as T;
}

export interface Reading<T> {
  data: T | undefined;
  error: Error | undefined;
  again: () => void;
}

/** Reads a path, and again every `everyMs`; the last good answer stays while a later one fails. */
export function useRead<T>(path: string | null, everyMs = 0): Reading<T> {
  const [found, setFound] = useState<{ path: string | null; data?: T; error?: Error }>({ path });
  const [turn, setTurn] = useState(0);
  const current = useRef(path);
  current.current = path;
  useEffect(() => {
    if (path === null) return undefined;
    let timer = 0;
    let ended = false;
    const look = async () => {
      try {
        const data = await read<T>(path);
        if (!ended) setFound({ path, data });
      } catch (error) {
        if (!ended) setFound((old) => ({ ...(old.path === path ? old : { path }), error: error as Error }));
      }
      if (!ended && everyMs > 0) timer = window.setTimeout(wait, everyMs);
    };
    const wait = () => (document.hidden ? (timer = window.setTimeout(wait, everyMs)) : void look());
    void look();
    return () => {
      ended = true;
      window.clearTimeout(timer);
    };
  }, [path, everyMs, turn]);
  const fits = found.path === path;
  return {
    data: fits ? found.data : undefined,
    error: fits ? found.error : undefined,
    again: () => setTurn((n) => n + 1),
  };
}
