// How charges become payments: batches on chain, what they cost, and what still waits.

import type { JSX } from "preact";
import type { PageProps } from "../app.tsx";
import { useRead, type Settlement, type Standing } from "../api.ts";
import { money, number, plural } from "../format.ts";
import { Card, Copied, Details, Facts, Failure, Heading, Hex, Loading, Table } from "../ui/parts.tsx";
import { Plot } from "../ui/plot.tsx";

const SHOWN = 60;

export function SettlementPage({ status }: PageProps): JSX.Element {
  const standing = useRead<Standing>("/market/v1/standing", 3_000);
  const batches = useRead<Settlement[]>(`/market/v1/settlements?limit=${SHOWN}`, 5_000);
  const rows = batches.data ?? [];
  const now = standing.data;
  const receipts = rows.reduce((sum, row) => sum + row.count, 0);
  const measured = rows.filter((row) => row.gasUsed !== null && row.count > 0);
  const gas = measured.reduce((sum, row) => sum + row.gasUsed!, 0);
  const paid = measured.reduce((sum, row) => sum + row.count, 0);
  return (
    <>
      <Heading title="Settlement">
        One transaction pays everybody at once and puts the Merkle root of its receipts on chain, where anyone can check
        them.
      </Heading>
      {standing.error && <Failure error={standing.error} />}
      {!now && !standing.error && <Loading />}
      {now && (
        <div class="strip">
          <Facts
            facts={[
              {
                name: "Blocks behind",
                value: now.blocksBehind === null ? "–" : number(now.blocksBehind),
                note: now.headBlock === null ? "the node does not answer" : `newest ${number(now.headBlock)}`,
              },
              {
                name: "Waiting",
                value: money(now.unsettledValue),
                note: plural(now.unsettledReceipts, "receipt"),
              },
              { name: "Batches", value: number(status?.lastEpoch ?? rows.length), note: `${plural(receipts, "receipt")} shown` },
              {
                name: "Gas per receipt",
                value: paid ? number(Math.round(gas / paid)) : "–",
                note: paid ? "mean of those shown" : "none measured yet",
              },
              { name: "Reserve", value: money(now.reserve), note: `${money(now.arrears)} claimed of it` },
            ]}
          />
        </div>
      )}
      <div class="halves">
        <Card>
          <Plot
            title="Gas per receipt, by batch"
            points={batches.data && measured.map((row) => ({ label: row.epoch, value: row.gasPerReceipt }))}
            format={(value) => number(Math.round(value))}
            empty="No batch yet."
          />
        </Card>
        <Card>
          <Plot
            title="Receipts, by batch"
            points={batches.data && rows.map((row) => ({ label: row.epoch, value: row.count }))}
            format={(value) => number(Math.round(value))}
            empty="No batch yet."
          />
        </Card>
      </div>
      <Card title="Batches">
        <Table
          caption="Settled batches, the newest first"
          empty="Nothing is settled yet."
          columns={[
            { name: "Epoch", cell: (row) => row.epoch },
            { name: "Block", number: true, cell: (row) => number(row.block) },
            { name: "Receipts", number: true, cell: (row) => number(row.count) },
            { name: "Debited", number: true, cell: (row) => money(row.debited) },
            { name: "Credited", number: true, cell: (row) => money(row.credited) },
            { name: "Gas", number: true, cell: (row) => number(row.gasUsed) },
            { name: "Per receipt", number: true, cell: (row) => number(row.gasPerReceipt) },
            { name: "Root", cell: (row) => <Hex value={row.root} /> },
            { name: "Transaction", cell: (row) => <Hex value={row.transactionHash} /> },
          ]}
          rows={batches.data && [...rows].reverse()}
        />
      </Card>
      {status && now && (
        <Card title="Terms">
          <Details
            rows={[
              ["Rhythm", `every ${now.settleIntervalSeconds} s, or once ${money(now.settleValue)} waits`],
              ["A channel may owe", `${money(status.exposureCap)} unsettled`],
              ["Gateway's fee", `${status.feePpm / 10_000} % of each price`],
              ["Confirmations", plural(status.confirmations, "block")],
              ["Escrow", <Copied key="e" value={status.escrow} />],
              ["Gateway", <Copied key="g" value={status.gateway} />],
              ["Chain", `id ${status.chainId}`],
            ]}
          />
        </Card>
      )}
    </>
  );
}
