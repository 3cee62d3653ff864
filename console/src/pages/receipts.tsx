// Receipts: found by request or channel, and checked here in the browser.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { PageProps } from "../app.tsx";
import { read, Refused, useRead, type Channel, type Status, type StoredReceipt } from "../api.ts";
import { money, number, time } from "../format.ts";
import { means } from "../pay/means.ts";
import { useSignal } from "../pay/signal.ts";
import { connect, said, wallet, wallets } from "../pay/wallet.ts";
import { chainReader } from "../protocol/chain.ts";
import { receiptFromJson, type Paper } from "../protocol/typed.ts";
import { checkChain, checkPaper, domainOf, type Check } from "../protocol/verify.ts";
import { go, href } from "../route.ts";
import { Checks } from "../ui/checks.tsx";
import { Badge, Card, Copied, Copy, Details, Facts, Failure, Heading, Hex, Loading, Table } from "../ui/parts.tsx";

const PAGE = 50;

interface Found {
  id: string;
  receipt?: StoredReceipt;
  channel?: Channel;
  error?: Error;
}

export function Receipts({ argument, status }: PageProps): JSX.Element {
  const [typed, setTyped] = useState(argument);
  const [complaint, setComplaint] = useState("");
  useEffect(() => setTyped(argument), [argument]);
  const search = (event: Event) => {
    event.preventDefault();
    const id = typed.trim().toLowerCase();
    if (!/^0x[0-9a-f]{64}$/.test(id)) {
      setComplaint("A request id or channel id is 0x and 64 hexadecimal digits.");
      return;
    }
    setComplaint("");
    go("receipts", id);
  };
  return (
    <>
      <Heading title="Receipts">
        Every answer has a receipt that the worker signed and the gateway countersigned. Here its signatures, its amounts and
        its place in the settled batch are checked by your browser.
      </Heading>
      <Card>
        <form class="lookup" onSubmit={search} role="search">
          <div class="field">
            <label for="lookup">Request id or channel id</label>
            <input
              id="lookup"
              class="mono"
              autocomplete="off"
              spellcheck={false}
              placeholder="0x…"
              value={typed}
              aria-invalid={complaint !== ""}
              aria-describedby={complaint ? "lookup-complaint" : undefined}
              onInput={(event) => setTyped(event.currentTarget.value)}
            />
          </div>
          <button type="submit">Look up</button>
        </form>
        {complaint && (
          <p id="lookup-complaint" class="complaint" role="alert">
            {complaint}
          </p>
        )}
      </Card>
      {!argument && <Yours status={status} />}
      {argument && <Result id={argument.toLowerCase()} status={status} />}
    </>
  );
}

/** Where ids come from, and the channel of this browser if it has one. */
function Yours({ status }: { status: Status | undefined }): JSX.Element {
  const kept = status && means(status)?.channel;
  return (
    <p class="quiet">
      Every answer names its request in the receipt that comes with it; <code>market receipts list</code> shows those of the
      command line.
      {kept && (
        <>
          {" "}
          This browser pays from the channel <Hex value={kept.id} page="receipts" />.
        </>
      )}
    </p>
  );
}

/** An id may be a request's or a channel's; both are asked for. */
function Result({ id, status }: { id: string; status: Status | undefined }): JSX.Element {
  const [found, setFound] = useState<Found>();
  useEffect(() => {
    let left = false;
    const look = async (): Promise<Found> => {
      try {
        return { id, receipt: await read<StoredReceipt>(`/market/v1/receipts/${encodeURIComponent(id)}`) };
      } catch (error) {
        if (!(error instanceof Refused) || error.code !== "receipt-not-found") return { id, error: error as Error };
      }
      try {
        return { id, channel: await read<Channel>(`/market/v1/channels/${encodeURIComponent(id)}`) };
      } catch (error) {
        return { id, error: error as Error };
      }
    };
    void look().then((answer) => left || setFound(answer));
    return () => {
      left = true;
    };
  }, [id]);
  if (found?.id !== id || !status) return <Loading />;
  if (found.receipt) return <OneReceipt key={id} first={found.receipt} status={status} />;
  if (found.channel) return <OneChannel id={id} />;
  if (found.error instanceof Refused && found.error.code === "channel-not-found") {
    return (
      <div class="notice warn" role="alert">
        <p>Neither a receipt nor a channel of this gateway has this id.</p>
      </div>
    );
  }
  return <Failure error={found.error ?? new Error("Nothing was found.")} />;
}

function OneChannel({ id }: { id: string }): JSX.Element {
  const channel = useRead<Channel>(`/market/v1/channels/${id}`, 5_000);
  const [pages, setPages] = useState([0]);
  const after = pages.at(-1)!;
  const receipts = useRead<StoredReceipt[]>(`/market/v1/channels/${id}/receipts?limit=${PAGE}&after=${after}`, 5_000);
  if (!channel.data) return channel.error ? <Failure error={channel.error} /> : <Loading />;
  const rows = receipts.data;
  return (
    <>
      <div class="strip">
        <Facts
          facts={[
            { name: "Deposited", value: money(channel.data.deposited) },
            { name: "Charged", value: money(channel.data.charged) },
            { name: "Settled on chain", value: money(channel.data.settled) },
            { name: "May still be spent", value: money(channel.data.available) },
          ]}
        />
      </div>
      <Card title="Receipts of this channel">
        <p class="quiet">
          Payer <Hex value={channel.data.payer} />, vouchers signed by <Hex value={channel.data.signer} />.
        </p>
        <Table
          caption="Receipts in the order in which they were charged"
          empty="No request was charged to this channel."
          columns={[
            { name: "Request", cell: (row) => <Hex value={row.receipt.requestId!} page="receipts" /> },
            { name: "Served", cell: (row) => time(Number(row.receipt.servedAt)) },
            { name: "Price", number: true, cell: (row) => money(row.receipt.price) },
            { name: "Total", number: true, cell: (row) => money(row.receipt.cumulative) },
            {
              name: "Settled",
              cell: (row) =>
                row.settlement ? <Badge tone="good">{`batch ${row.settlement.epoch}`}</Badge> : <Badge tone="warn">waits</Badge>,
            },
          ]}
          rows={rows}
        />
        {rows && (pages.length > 1 || rows.length === PAGE) && (
          <p class="row">
            <button type="button" class="second" disabled={pages.length === 1} onClick={() => setPages(pages.slice(0, -1))}>
              Earlier
            </button>
            <button
              type="button"
              class="second"
              disabled={rows.length < PAGE}
              onClick={() => setPages([...pages, rows.at(-1)!.position])}
            >
              Later
            </button>
          </p>
        )}
      </Card>
    </>
  );
}

function OneReceipt({ first, status }: { first: StoredReceipt; status: Status }): JSX.Element {
  const fields = first.receipt;
  const path = `/market/v1/receipts/${fields.requestId}?channel=${fields.channelId}`;
  const [settled, setSettled] = useState(first.settlement ? first : undefined);
  // Asked again until it is settled; then it never changes.
  const newest = useRead<StoredReceipt>(settled ? null : path, 3_000).data;
  useEffect(() => {
    if (newest?.settlement) setSettled(newest);
  }, [newest]);
  const shown = settled ?? first;
  const amount = (name: string) => money(fields[name]);
  return (
    <>
      <div class="strip">
        <Facts
          facts={[
            { name: "Price", value: amount("price") },
            { name: "To the worker", value: amount("workerAmount") },
            { name: "To the model's owner", value: amount("ownerAmount") },
            {
              name: "To the gateway",
              value: money(BigInt(fields.price!) - BigInt(fields.workerAmount!) - BigInt(fields.ownerAmount!)),
            },
          ]}
        />
      </div>
      <div class="halves">
        <Verdict stored={shown} status={status} />
        <Card title="What it says">
          <Details
            rows={[
              ["Served", time(Number(fields.servedAt))],
              ["Request", <Copied key="r" value={fields.requestId!} />],
              ["Channel", <Hex key="c" value={fields.channelId!} page="receipts" />],
              ["Payer", <Hex key="p" value={fields.payer!} />],
              ["Worker", <Hex key="w" value={fields.worker!} />],
              ["Model", <a key="m" href={href("models", fields.modelId!)}><Hex value={fields.modelId!} /></a>],
              ["Input", <Copied key="i" value={fields.inputHash!} />],
              ["Output", <Copied key="o" value={fields.outputHash!} />],
              ["Channel's total", `${amount("cumulative")}, reservation ${number(fields.seq)}`],
              ["Digest", <Copied key="d" value={shown.digest} />],
              ["Batch", shown.settlement ? `${shown.settlement.epoch}, leaf ${shown.settlement.index}` : "waits"],
              ...(shown.settlement?.transactionHash
                ? [["Transaction", <Copied key="t" value={shown.settlement.transactionHash} />] as [string, JSX.Element]]
                : []),
            ]}
          />
          <p class="after">
            <Copy text={JSON.stringify(shown, null, 2)} label="Copy the receipt with its proof" />
          </p>
        </Card>
      </div>
    </>
  );
}

export function Verdict({ stored, status }: { stored: StoredReceipt; status: Status }): JSX.Element {
  useSignal("wallet");
  const connected = wallet();
  const [checks, setChecks] = useState<{ list: Check[]; source: string } | Error>();
  const settled = stored.settlement?.epoch;
  useEffect(() => {
    let left = false;
    const run = async () => {
      const paper: Paper = {
        receipt: receiptFromJson(stored.receipt),
        workerSignature: stored.workerSignature as `0x${string}`,
        gatewaySignature: stored.gatewaySignature as `0x${string}`,
      };
      const reader = await chainReader(status.chainId);
      const here = await checkPaper(paper, domainOf(status), stored.digest);
      const there = await checkChain(paper, stored.settlement, status, reader);
      return { list: [...here, ...there], source: reader.source };
    };
    run().then(
      (found) => left || setChecks(found),
      (error: Error) => left || setChecks(error),
    );
    return () => {
      left = true;
    };
  }, [stored.digest, settled, status.escrow, connected?.address]);
  if (!checks) {
    return (
      <Card title="Checks">
        <Loading />
      </Card>
    );
  }
  if (checks instanceof Error) {
    return (
      <Card title="Checks">
        <Failure error={checks} />
      </Card>
    );
  }
  const bad = checks.list.filter((check) => check.holds === false).length;
  const open = checks.list.some((check) => check.holds === undefined);
  return (
    <Card title="Checks">
      <p role="status">
        {bad > 0 ? (
          <Badge tone="bad">{`${bad} of ${checks.list.length} checks fail`}</Badge>
        ) : open ? (
          <Badge tone="warn">Good so far, not settled yet</Badge>
        ) : (
          <Badge tone="good">Verified</Badge>
        )}
      </p>
      <Checks checks={checks.list} />
      <p class="after quiet">
        {checks.source === "wallet"
          ? "The chain was read by your wallet's own node, not through the gateway; the contracts' addresses are those that the gateway names."
          : "Digest, signatures, amounts and Merkle path were computed here. The chain itself was read through the gateway, so for those answers you trust it; the node of a connected wallet would be asked instead."}
      </p>
      {checks.source !== "wallet" && <AskWallet chainId={status.chainId} />}
    </Card>
  );
}

/** Buttons that connect a wallet, whose node then answers instead of the gateway. */
function AskWallet({ chainId }: { chainId: number }): JSX.Element | null {
  const [error, setError] = useState<Error>();
  const found = wallets();
  if (found.length === 0) return null;
  return (
    <>
      <p class="row after">
        {found.map(({ id, name }) => (
          <button
            key={id}
            type="button"
            class="second"
            onClick={() => connect(id, chainId).then(() => setError(undefined), (failed) => setError(said(failed)))}
          >
            Ask the node of {name}
          </button>
        ))}
      </p>
      {error && <Failure error={error} />}
    </>
  );
}
