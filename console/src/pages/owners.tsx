// Who listed models: what they are called for, and the royalty that comes of it.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import type { PageProps } from "../app.tsx";
import { useRead, type Earnings, type Model, type Past, type Payee } from "../api.ts";
import { money, number, ppm } from "../format.ts";
import { href } from "../route.ts";
import { Badge, Card, Facts, Failure, Heading, Hex, Loading, Table } from "../ui/parts.tsx";
import { Plot } from "../ui/plot.tsx";
import { overTime } from "../ui/series.ts";

export function Owners({ argument }: PageProps): JSX.Element {
  return argument ? <OneOwner address={argument} /> : <AllOwners />;
}

function AllOwners(): JSX.Element {
  const { data, error } = useRead<Model[]>("/market/v1/models", 5_000);
  const rows = useMemo(() => {
    const found = new Map<string, Model[]>();
    for (const model of data ?? []) found.set(model.owner, [...(found.get(model.owner) ?? []), model]);
    return [...found.entries()];
  }, [data]);
  return (
    <>
      <Heading title="Owners">
        An owner lists a model by its hash and earns a royalty of every paid request, whoever serves it.
      </Heading>
      {error && <Failure error={error} />}
      {!data && !error && <Loading />}
      {data && (
        <Card>
          <Table
            caption="Owners"
            empty="No model is listed."
            columns={[
              { name: "Owner", cell: ([owner]) => <Hex value={owner} page="owners" /> },
              { name: "Models", number: true, cell: ([, models]) => number(models.length) },
              { name: "Names", cell: ([, models]) => models.map((model) => model.name).join(", ") },
            ]}
            rows={rows}
          />
        </Card>
      )}
    </>
  );
}

function OneOwner({ address }: { address: string }): JSX.Element {
  const path = encodeURIComponent(address);
  const models = useRead<Model[]>(`/market/v1/models?owner=${path}`, 5_000);
  const earnings = useRead<Earnings>(`/market/v1/owners/${path}/earnings`, 5_000);
  const payee = useRead<Payee>(`/market/v1/payees/${path}`, 5_000);
  const past = useRead<Past>(`/market/v1/activity?owner=${path}&hours=24&stepSeconds=1800`, 15_000);
  const error = models.error ?? earnings.error ?? payee.error ?? past.error;
  const byModel = new Map((earnings.data?.models ?? []).map((row) => [row.modelId, row]));
  const calls = (earnings.data?.models ?? []).reduce((sum, row) => sum + row.requests, 0);
  const heading = (
    <>
      <p class="crumb">
        <a href={href("owners")}>All owners</a>
      </p>
      <Heading title="Owner">
        <span class="mono wide">{address}</span>
      </Heading>
      {error && <Failure error={error} />}
    </>
  );
  if (error && !models.data) return heading;
  return (
    <>
      {heading}
      <div class="strip">
        <Facts
          facts={[
            { name: "Royalties earned", value: money(earnings.data?.total) },
            { name: "Calls", value: earnings.data ? number(calls) : "–" },
            { name: "Credited on chain", value: money(payee.data?.credited) },
            { name: "Withdrawn", value: money(payee.data?.withdrawn) },
          ]}
        />
      </div>
      <div class="halves">
        <Card>
          <Plot
            title="Royalties, last day"
            points={past.data && overTime(past.data, (bucket) => Number(bucket.ownerAmount))}
            format={(value) => money(BigInt(Math.round(value)))}
            empty="No royalty in the last day."
          />
        </Card>
        <Card>
          <Plot
            title="Calls, last day"
            points={past.data && overTime(past.data, (bucket) => bucket.requests)}
            format={number}
            empty="No call in the last day."
          />
        </Card>
      </div>
      <Card title="Models" class="gap">
        <Table
          caption="Models of this owner"
          empty="This address has listed no model."
          columns={[
            { name: "Model", cell: (row) => <a href={href("models", row.name)}>{row.name}</a> },
            {
              name: "State",
              cell: (row) =>
                !row.active ? (
                  <Badge tone="warn">delisted</Badge>
                ) : row.offers.length ? (
                  <Badge tone="good">live</Badge>
                ) : (
                  <Badge tone="warn">no worker</Badge>
                ),
            },
            { name: "Royalty", number: true, cell: (row) => ppm(row.royaltyPpm) },
            { name: "Workers", number: true, cell: (row) => number(row.offers.length) },
            { name: "Calls", number: true, cell: (row) => number(byModel.get(row.modelId)?.requests ?? 0) },
            { name: "Earned", number: true, cell: (row) => money(byModel.get(row.modelId)?.earned ?? "0") },
          ]}
          rows={models.data}
        />
      </Card>
    </>
  );
}
