// Who runs workers: their stake, what they earn, how well they serve.

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import type { PageProps } from "../app.tsx";
import { useRead, type Model, type Past, type Payee, type Worker, type WorkerInsight } from "../api.ts";
import { milliseconds, money, number, plural, share, unitName } from "../format.ts";
import { href } from "../route.ts";
import { Badge, Card, Details, Facts, Failure, Heading, Hex, Loading, Table } from "../ui/parts.tsx";
import { Plot } from "../ui/plot.tsx";
import { lastHour, overTime } from "../ui/series.ts";

export function Operators({ argument }: PageProps): JSX.Element {
  return argument ? <OneOperator address={argument} /> : <AllOperators />;
}

interface Row {
  operator: string;
  workers: Worker[];
}

function AllOperators(): JSX.Element {
  const { data, error } = useRead<Worker[]>("/market/v1/workers", 5_000);
  const rows = useMemo(() => {
    const found = new Map<string, Row>();
    for (const worker of data ?? []) {
      const row = found.get(worker.operator) ?? { operator: worker.operator, workers: [] };
      row.workers.push(worker);
      found.set(worker.operator, row);
    }
    return [...found.values()];
  }, [data]);
  return (
    <>
      <Heading title="Operators">
        An operator stakes tokens for each worker and loses them if a worker signs two different receipts for one request.
      </Heading>
      {error && <Failure error={error} />}
      {!data && !error && <Loading />}
      {data && (
        <Card>
          <Table
            caption="Operators"
            empty="No worker is registered."
            columns={[
              { name: "Operator", cell: (row) => <Hex value={row.operator} page="operators" /> },
              { name: "Workers", number: true, cell: (row) => number(row.workers.length) },
              { name: "Live", number: true, cell: (row) => number(row.workers.filter((worker) => worker.live).length) },
              {
                name: "Stake",
                number: true,
                cell: (row) => money(row.workers.reduce((sum, worker) => sum + BigInt(worker.stake), 0n)),
              },
              { name: "Regions", cell: (row) => [...new Set(row.workers.map((worker) => worker.region))].filter(Boolean).join(", ") || "–" },
            ]}
            rows={rows}
          />
        </Card>
      )}
    </>
  );
}

function OneOperator({ address }: { address: string }): JSX.Element {
  const path = encodeURIComponent(address);
  const workers = useRead<Worker[]>(`/market/v1/workers?operator=${path}`, 5_000);
  const payee = useRead<Payee>(`/market/v1/payees/${path}`, 5_000);
  const past = useRead<Past>(`/market/v1/activity?operator=${path}&hours=24&stepSeconds=1800`, 15_000);
  const models = useRead<Model[]>("/market/v1/models", 15_000);
  const error = workers.error ?? payee.error ?? past.error;
  const found = workers.data ?? [];
  const waiting = payee.data ? BigInt(payee.data.earned) - BigInt(payee.data.credited) : null;
  const heading = (
    <>
      <p class="crumb">
        <a href={href("operators")}>All operators</a>
      </p>
      <Heading title="Operator">
        <span class="mono wide">{address}</span>
      </Heading>
      {error && <Failure error={error} />}
    </>
  );
  if (error && !workers.data) return heading;
  return (
    <>
      {heading}
      <div class="strip">
        <Facts
          facts={[
            { name: "Earned here", value: money(payee.data?.earned) },
            { name: "Credited on chain", value: money(payee.data?.credited), note: waiting === null ? "" : `${money(waiting)} to come` },
            { name: "Withdrawn", value: money(payee.data?.withdrawn) },
            {
              name: "Stake",
              value: money(found.reduce((sum, worker) => sum + BigInt(worker.stake), 0n)),
              note: plural(found.length, "worker"),
            },
          ]}
        />
      </div>
      <div class="halves">
        <Card>
          <Plot
            title="Earned, last day"
            points={past.data && overTime(past.data, (bucket) => Number(bucket.workerAmount))}
            format={(value) => money(BigInt(Math.round(value)))}
            empty="Nothing was earned in the last day."
          />
        </Card>
        <Card>
          <Plot
            title="Requests, last day"
            points={past.data && overTime(past.data, (bucket) => bucket.requests)}
            format={number}
            empty="No request was served in the last day."
          />
        </Card>
      </div>
      {workers.data?.length === 0 && <p class="quiet after">This address has no workers.</p>}
      {found.map((worker) => (
        <WorkerCard key={worker.worker} worker={worker} models={models.data ?? []} />
      ))}
    </>
  );
}

function WorkerCard({ worker, models }: { worker: Worker; models: Model[] }): JSX.Element {
  const { data, error } = useRead<WorkerInsight>(`/market/v1/workers/${worker.worker}`, 5_000);
  const errors = Object.entries(data?.performance.errors ?? {});
  return (
    <Card title="Worker" class="gap">
      <div class="row">
        <span class="mono wide">{worker.worker}</span>
        <Badge tone={worker.live ? "good" : "warn"}>{worker.live ? "live" : "not seen"}</Badge>
        {!worker.active && <Badge tone="bad">stake too low</Badge>}
      </div>
      {error && !data && <Failure error={error} />}
      <div class="halves">
        <div>
          <Details
            rows={[
              ["Region", worker.region || "–"],
              ["Hardware", [...new Set([worker.hardware, worker.provider])].filter(Boolean).join(" · ") || "–"],
              ["Stake", `${money(worker.stake)}${worker.thawing === "0" ? "" : `, ${money(worker.thawing)} thawing`}`],
              ["In flight", number(worker.inFlight)],
              ["Last hour", data ? `${number(data.performance.served)} answered, ${share(data.performance.successRate)}` : "–"],
              ["Answer time", `${milliseconds(data?.performance.p50Ms)} median, ${milliseconds(data?.performance.p95Ms)} slowest twentieth`],
              [
                "Errors",
                errors.length === 0
                  ? "none"
                  : errors.map(([code, count]) => (
                      <span key={code} class="row">
                        <a href={`/errors/${code}`}>
                          <code>{code}</code>
                        </a>{" "}
                        × {number(count)}
                      </span>
                    )),
              ],
            ]}
          />
        </div>
        <div>
          <Plot
            title="Mean answer time, last hour"
            kind="line"
            points={data && lastHour(data.history, (minute) => minute.meanMs, null)}
            format={milliseconds}
            empty="No answer in the last hour."
          />
          <Plot
            title="Failures, last hour"
            points={data && lastHour(data.history, (minute) => minute.failed, 0)}
            format={number}
            empty="No failure in the last hour."
          />
        </div>
      </div>
      <h3>Models, last hour</h3>
      <ModelsTable worker={worker} insight={data} models={models} />
    </Card>
  );
}

/** What the worker offers, and how it served each. */
function ModelsTable({
  worker,
  insight,
  models,
}: {
  worker: Worker;
  insight: WorkerInsight | undefined;
  models: Model[];
}): JSX.Element {
  const served = new Map((insight?.byModel ?? []).map((row) => [row.modelId, row.performance]));
  const rows = [...new Set([...worker.models, ...served.keys()])].map((modelId) => {
    const model = models.find((one) => one.modelId === modelId);
    const offer = model?.offers.find((one) => one.worker === worker.worker);
    return { modelId, model, offer, performance: served.get(modelId) };
  });
  return (
    <Table
      caption={`Models of worker ${worker.worker}`}
      empty="It offers no model now."
      columns={[
        {
          name: "Model",
          cell: ({ modelId, model }) => (
            <a href={href("models", model?.name ?? modelId)}>{model?.name ?? <Hex value={modelId} />}</a>
          ),
        },
        {
          name: "Price",
          number: true,
          cell: ({ model, offer }) => (model && offer ? `${money(offer.unitPrice)} per ${unitName(model.unit)}` : "–"),
        },
        { name: "Answered", number: true, cell: ({ performance }) => number(performance?.served ?? 0) },
        { name: "Success", number: true, cell: ({ performance }) => share(performance?.successRate) },
        { name: "Median", number: true, cell: ({ performance }) => milliseconds(performance?.p50Ms) },
        {
          name: "Errors",
          number: true,
          cell: ({ performance }) => number(Object.values(performance?.errors ?? {}).reduce((sum, one) => sum + one, 0)),
        },
      ]}
      rows={rows}
    />
  );
}
