// Try a model: see the price, pay by a channel, see the answer and its receipt checked, copy the same call.

import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import type { PageProps } from "../app.tsx";
import { useRead, type Model, type Status } from "../api.ts";
import { money } from "../format.ts";
import { means } from "../pay/means.ts";
import { PayCard } from "../pay/PayCard.tsx";
import { infer, type Outcome } from "../pay/request.ts";
import { useSignal } from "../pay/signal.ts";
import { go } from "../route.ts";
import { ChatBench } from "../tasks/chat.tsx";
import { Asked, isCeiling, PaperCard, Snippets, usePrice } from "../tasks/paid.tsx";
import { Results } from "../tasks/results.tsx";
import { Fields } from "../tasks/fields.tsx";
import { calls } from "../tasks/snippets.ts";
import { example, kindOf, tensorsOf, type Given } from "../tasks/tasks.ts";
import { Card, Failure, Heading, Loading } from "../ui/parts.tsx";

export function Playground({ argument, status }: PageProps): JSX.Element {
  const { data, error } = useRead<Model[]>("/market/v1/models", 10_000);
  const live = (data ?? []).filter((model) => model.active && model.offers.length > 0);
  // What was typed, paid and answered stays on the page when the model's last worker goes, or an earlier name comes up.
  const kept = useRef<{ argument: string; model: Model }>(undefined);
  const before = kept.current?.argument === argument ? kept.current?.model : undefined;
  const wanted = before?.modelId ?? argument;
  const found = wanted ? live.find((model) => model.name === wanted || model.modelId === wanted) : live[0];
  if (found) kept.current = { argument, model: found };
  const chosen = found ?? before;
  return (
    <>
      <Heading title="Playground">
        Each request shows its price before and its receipt after, checked here in the browser. A failed request costs
        nothing.
      </Heading>
      {error && !data && <Failure error={error} />}
      {(!data || !status) && !error && <Loading />}
      {data && live.length === 0 && !chosen && <p class="quiet">No live worker offers a model now.</p>}
      {(chosen || live.length > 0) && (
        <div class="field model-choice">
          <label for="model">Model</label>
          <select id="model" value={chosen?.name ?? ""} onChange={(event) => go("playground", event.currentTarget.value)}>
            {!chosen && <option value="">Choose one</option>}
            {(chosen && !found ? [chosen, ...live] : live).map((model) => (
              <option key={model.modelId} value={model.name}>
                {model.name} ({model.task})
              </option>
            ))}
          </select>
        </div>
      )}
      {data && !found && (chosen || (argument && live.length > 0)) && (
        <div class="notice warn" role="alert">
          <p>No live worker offers this model now.</p>
        </div>
      )}
      {chosen && status && kindOf(chosen) === "chat" && <ChatBench key={chosen.modelId} model={chosen} status={status} />}
      {chosen && status && kindOf(chosen) !== "chat" && <Bench key={chosen.modelId} model={chosen} status={status} />}
    </>
  );
}

function Bench({ model, status }: { model: Model; status: Status }): JSX.Element {
  useSignal("channel");
  const [given, setGiven] = useState<Given>(() => example(model));
  const [outcome, setOutcome] = useState<{ found: Outcome; text: string }>();
  const [error, setError] = useState<Error>();
  const [running, setRunning] = useState(false);
  const results = useRef<HTMLDivElement>(null);
  const asked = usePrice(model, given, () => tensorsOf(model, given));
  const pays = means(status);
  const origin = window.location.origin;
  const by = pays?.key ? "key" : "voucher";
  const send = async (event: Event) => {
    event.preventDefault();
    if (asked.price === undefined || !pays || running) return;
    setRunning(true);
    setError(undefined);
    try {
      setOutcome({ found: await infer(status, model, tensorsOf(model, given), {}, asked.price), text: given.text });
    } catch (failed) {
      setOutcome(undefined);
      setError(failed as Error);
    }
    setRunning(false);
    results.current?.scrollIntoView({ block: "nearest" });
  };
  return (
    <div class="bench">
      <div>
        <Card title="Request">
          <form onSubmit={send}>
            <Fields model={model} given={given} change={(part) => setGiven((now) => ({ ...now, ...part }))} />
            <div class="row apart">
              <Asked model={model} {...asked} />
              <button type="submit" disabled={asked.price === undefined || !pays || running}>
                {running ? "Running …" : asked.price === undefined ? "Run" : `Run for ${isCeiling(model) ? "at most " : ""}${money(asked.price)}`}
              </button>
            </div>
            {!pays && <p class="quiet">Open a channel, or give an API key, to run it.</p>}
          </form>
        </Card>
        <div ref={results} aria-live="polite">
          {error && <Failure error={error} />}
          {outcome && (
            <>
              <Card title="Answer">
                <Results model={model} outputs={outcome.found.outputs} text={outcome.text} />
              </Card>
              <PaperCard paid={outcome.found} />
            </>
          )}
        </div>
      </div>
      <div>
        <PayCard status={status} />
        <Snippets calls={calls(model, given, origin, by)} />
      </div>
    </div>
  );
}
