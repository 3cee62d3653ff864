// What can be bought: every listing with its price, how it was served in the last hour, and who serves it where.

import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import type { PageProps } from "../app.tsx";
import { useRead, type Model, type ModelInsight, type Past } from "../api.ts";
import { milliseconds, money, number, plural, ppm, priceOfOne, share, unitName } from "../format.ts";
import { href } from "../route.ts";
import { Badge, Card, Copied, Details, Facts, Failure, Heading, Hex, Loading, Table } from "../ui/parts.tsx";
import { Plot } from "../ui/plot.tsx";
import { lastHour, overTime } from "../ui/series.ts";

export function Models({ argument }: PageProps): JSX.Element {
  return argument ? <OneModel name={argument} /> : <AllModels />;
}

/** In what order models are listed; what is not known, and what is delisted, comes last. */
const ORDERS: Record<string, { title: string; by: (model: Model) => number | string }> = {
  name: { title: "Name", by: (model) => model.name },
  price: { title: "Price of a unit", by: (model) => least(model) ?? Infinity },
  time: { title: "Answer time", by: (model) => model.performance.p50Ms ?? Infinity },
  success: { title: "Success", by: (model) => -(model.performance.successRate ?? -1) },
};

function inOrder(models: Model[], order: string): Model[] {
  const by = ORDERS[order]!.by;
  return [...models].sort((a, b) => {
    if (a.active !== b.active) return a.active ? -1 : 1;
    const [one, other] = [by(a), by(b)];
    return one < other ? -1 : one > other ? 1 : a.name.localeCompare(b.name);
  });
}

const cheapest = (model: Model): bigint | null =>
  model.offers.reduce<bigint | null>((least, offer) => {
    const price = BigInt(offer.unitPrice);
    return least === null || price < least ? price : least;
  }, null);

function least(model: Model): number | null {
  const price = cheapest(model);
  return price === null ? null : priceOfOne(model.unit, price);
}

function AllModels(): JSX.Element {
  const { data, error } = useRead<Model[]>("/market/v1/models", 5_000);
  const [words, setWords] = useState("");
  const [task, setTask] = useState("");
  const [order, setOrder] = useState("name");
  const tasks = useMemo(() => [...new Set((data ?? []).map((model) => model.task).filter((t) => t !== null))].sort(), [data]);
  const found = (data ?? []).filter((model) => {
    if (task && model.task !== task) return false;
    const said = [model.name, model.task, model.modelId, model.owner, model.license, ...model.regions].join(" ").toLowerCase();
    return words.toLowerCase().split(/\s+/).every((word) => said.includes(word));
  });
  return (
    <>
      <Heading title="Models">
        Each model is known by the hash of its files. The price is the lowest live offer; answer times and success are of
        this gateway's own attempts in the last hour.
      </Heading>
      <search class="filters">
        <div class="field">
          <label for="words">Search</label>
          <input
            id="words"
            type="search"
            placeholder="Name, task, region, owner or hash"
            value={words}
            onInput={(event) => setWords(event.currentTarget.value)}
          />
        </div>
        <div class="field">
          <label for="task">Task</label>
          <select id="task" value={task} onChange={(event) => setTask(event.currentTarget.value)}>
            <option value="">All tasks</option>
            {tasks.map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </div>
        <div class="field">
          <label for="order">Order</label>
          <select id="order" value={order} onChange={(event) => setOrder(event.currentTarget.value)}>
            {Object.entries(ORDERS).map(([name, { title }]) => (
              <option key={name} value={name}>
                {title}
              </option>
            ))}
          </select>
        </div>
      </search>
      {error && <Failure error={error} />}
      {!data && !error && <Loading />}
      <p class="quiet" role="status">
        {data && `${plural(found.length, "model")}${found.length === data.length ? "" : ` of ${data.length}`}`}
      </p>
      <ul class="grid">
        {inOrder(found, order).map((model) => (
          <li key={model.modelId}>
            <ModelCard model={model} />
          </li>
        ))}
      </ul>
    </>
  );
}

function ModelCard({ model }: { model: Model }): JSX.Element {
  const price = cheapest(model);
  const state = !model.active ? "delisted" : model.offers.length ? "live" : "no worker";
  return (
    <article class="card model">
      <div class="row apart">
        <h2>
          <a href={href("models", model.name)}>{model.name}</a>
        </h2>
        <Badge tone={state === "live" ? "good" : "warn"}>{state}</Badge>
      </div>
      <p class="price">
        {price === null ? `${money(model.minPrice)} – ${money(model.maxPrice)}` : money(price)}{" "}
        <small>per {unitName(model.unit)}</small>
      </p>
      <Facts
        class="compact"
        facts={[
          { name: "Answer time", value: milliseconds(model.performance.p50Ms) },
          { name: "Success", value: share(model.performance.successRate) },
          { name: "Workers", value: number(model.offers.length) },
        ]}
      />
      <p class="where">
        {[model.task, model.license, model.regions.length ? `in ${model.regions.join(", ")}` : null].filter(Boolean).join(" · ")}
      </p>
    </article>
  );
}

function OneModel({ name }: { name: string }): JSX.Element {
  const path = encodeURIComponent(name);
  const model = useRead<Model>(`/market/v1/models/${path}`, 5_000);
  const insight = useRead<ModelInsight>(`/market/v1/models/${path}/performance`, 5_000);
  const past = useRead<Past>(`/market/v1/activity?model=${path}&hours=24&stepSeconds=1800`, 15_000);
  if (model.error && !model.data) {
    return (
      <>
        <p class="crumb">
          <a href={href("models")}>All models</a>
        </p>
        <Heading title={name} />
        <Failure error={model.error} />
      </>
    );
  }
  if (!model.data) return <Loading />;
  const found = model.data;
  const price = cheapest(found);
  return (
    <>
      <p class="crumb">
        <a href={href("models")}>All models</a>
      </p>
      <div class="heading row apart">
        <div class="row">
          <h1>{found.name}</h1>
          {found.offers.length ? <Badge tone="good">live</Badge> : <Badge tone="warn">no worker</Badge>}
        </div>
        <a class="button" href={href("playground", found.name)}>
          Try it
        </a>
      </div>
      <div class="strip">
        <Facts
          facts={[
            { name: `Price per ${unitName(found.unit)}`, value: price === null ? "–" : money(price) },
            { name: "Answer time, median", value: milliseconds(found.performance.p50Ms) },
            { name: "Slowest twentieth", value: milliseconds(found.performance.p95Ms) },
            { name: "Success, last hour", value: share(found.performance.successRate) },
            { name: "Answers, last hour", value: number(found.performance.served) },
          ]}
        />
      </div>
      <Card title="Served by">
        <Table
          caption="Workers that serve this model"
          empty="No live worker offers this model now."
          columns={[
            { name: "Worker", cell: (row) => <Hex value={row.worker} /> },
            { name: "Operator", cell: (row) => <Hex value={row.operator} page="operators" /> },
            { name: "Region", cell: (row) => row.region || "–" },
            { name: "Hardware", cell: (row) => row.hardware || "–" },
            { name: "Price", number: true, cell: (row) => money(row.unitPrice) },
            { name: "Median", number: true, cell: (row) => milliseconds(row.performance.p50Ms) },
            { name: "Success", number: true, cell: (row) => share(row.performance.successRate) },
            { name: "Stake", number: true, cell: (row) => money(row.stake) },
          ]}
          rows={insight.data?.servedBy}
        />
      </Card>
      <div class="halves">
        <Card>
          <Plot
            title="Mean answer time, last hour"
            kind="line"
            points={insight.data && lastHour(insight.data.history, (minute) => minute.meanMs, null)}
            format={milliseconds}
            empty="No request was served in the last hour."
          />
        </Card>
        <Card>
          <Plot
            title="Paid requests, last day"
            points={past.data && overTime(past.data, (bucket) => bucket.requests)}
            format={number}
            empty="No request was paid in the last day."
          />
        </Card>
      </div>
      <div class="halves">
        <Card title="Listing">
          <Details
            rows={[
              ["Model id", <Copied key="id" value={found.modelId} />],
              ["Owner", <Hex key="owner" value={found.owner} page="owners" />],
              ["Royalty", ppm(found.royaltyPpm)],
              ["Price bounds", `${money(found.minPrice)} to ${money(found.maxPrice)} per ${unitName(found.unit)}`],
              ["Task", found.task ?? "known once a worker serves it"],
              ["License", found.license || "–"],
              ["Files", found.uri],
            ]}
          />
        </Card>
        <Card title="Inputs and outputs">
          {found.inputs && found.outputs ? (
            <Details
              rows={[
                ...found.inputs.map((spec): [string, JSX.Element] => [`in: ${spec.name}`, <Shape key="s" spec={spec} />]),
                ...found.outputs.map((spec): [string, JSX.Element] => [`out: ${spec.name}`, <Shape key="s" spec={spec} />]),
                ["Rows at once", number(found.maxBatch)],
              ]}
            />
          ) : (
            <p class="quiet">Known once a worker serves it.</p>
          )}
        </Card>
      </div>
    </>
  );
}

function Shape({ spec }: { spec: { datatype: string; shape: number[] } }): JSX.Element {
  return (
    <span class="mono">
      {spec.datatype}[{spec.shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]
    </span>
  );
}
