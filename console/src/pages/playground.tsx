// Try a model: see the price, pay by a channel, see the answer and its receipt checked, copy the same call.

import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { PageProps } from "../app.tsx";
import { useRead, type Model, type Status } from "../api.ts";
import { milliseconds, money } from "../format.ts";
import { keptChannel } from "../pay/channel.ts";
import { PayCard } from "../pay/PayCard.tsx";
import { infer, price, type Outcome } from "../pay/request.ts";
import { useSignal } from "../pay/signal.ts";
import { go, href } from "../route.ts";
import { Results } from "../tasks/results.tsx";
import { curl, python } from "../tasks/snippets.ts";
import { example, kindOf, tensorsOf, type Given } from "../tasks/tasks.ts";
import { Badge, Card, Copy, Failure, Heading, Loading } from "../ui/parts.tsx";

const PRICE_DELAY_MS = 400;

export function Playground({ argument, status }: PageProps): JSX.Element {
  const { data, error } = useRead<Model[]>("/market/v1/models", 10_000);
  const live = (data ?? []).filter((model) => model.active && model.offers.length > 0);
  const chosen = argument ? live.find((model) => model.name === argument || model.modelId === argument) : live[0];
  return (
    <>
      <Heading title="Playground">
        Each request shows its price before and its receipt after, checked here in the browser. A failed request costs
        nothing.
      </Heading>
      {error && !data && <Failure error={error} />}
      {(!data || !status) && !error && <Loading />}
      {data && live.length === 0 && <p class="quiet">No live worker offers a model now.</p>}
      {live.length > 0 && (
        <div class="field model-choice">
          <label for="model">Model</label>
          <select id="model" value={chosen?.name ?? ""} onChange={(event) => go("playground", event.currentTarget.value)}>
            {!chosen && <option value="">Choose one</option>}
            {live.map((model) => (
              <option key={model.modelId} value={model.name}>
                {model.name} ({model.task})
              </option>
            ))}
          </select>
        </div>
      )}
      {data && argument && !chosen && live.length > 0 && (
        <div class="notice warn" role="alert">
          <p>No live worker offers this model now.</p>
        </div>
      )}
      {chosen && status && <Bench key={chosen.modelId} model={chosen} status={status} />}
    </>
  );
}

function Bench({ model, status }: { model: Model; status: Status }): JSX.Element {
  useSignal("channel");
  const [given, setGiven] = useState<Given>(() => ({ text: example(model), image: null }));
  const [outcome, setOutcome] = useState<{ found: Outcome; text: string }>();
  const [error, setError] = useState<Error>();
  const [running, setRunning] = useState(false);
  const results = useRef<HTMLDivElement>(null);
  const asked = usePrice(model, given);
  const channel = keptChannel(status);
  const send = async (event: Event) => {
    event.preventDefault();
    if (asked.price === undefined || !channel || running) return;
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
            <Form model={model} given={given} change={setGiven} />
            <div class="row apart">
              <p class="asked" role="status">
                {asked.price !== undefined ? (
                  <>
                    Price: <strong>{money(asked.price)}</strong>
                    {model.unit === "token" && " at most"}
                  </>
                ) : (
                  <span class={asked.error ? "complaint" : "quiet"}>{asked.error?.message ?? "Asking for the price …"}</span>
                )}
              </p>
              <button type="submit" disabled={asked.price === undefined || !channel || running}>
                {running ? "Running …" : asked.price === undefined ? "Run" : `Run for ${money(asked.price)}`}
              </button>
            </div>
            {!channel && <p class="quiet">Open a channel to run it.</p>}
          </form>
        </Card>
        <div ref={results} aria-live="polite">
          {error && <Failure error={error} />}
          {outcome && (
            <>
              <Card title="Answer">
                <Results model={model} outputs={outcome.found.outputs} text={outcome.text} />
              </Card>
              <Paper outcome={outcome.found} />
            </>
          )}
        </div>
      </div>
      <div>
        <PayCard status={status} />
        <Snippets model={model} given={given} />
      </div>
    </div>
  );
}

/** The price of what is in the form, a moment after it stopped changing. */
function usePrice(model: Model, given: Given): { price?: bigint; error?: Error } {
  const [found, setFound] = useState<{ given: Given; price?: bigint; error?: Error }>();
  useEffect(() => {
    let left = false;
    const timer = window.setTimeout(async () => {
      try {
        const asked = await price(model, tensorsOf(model, given));
        if (!left) setFound({ given, price: asked });
      } catch (error) {
        if (!left) setFound({ given, error: error as Error });
      }
    }, PRICE_DELAY_MS);
    return () => {
      left = true;
      window.clearTimeout(timer);
    };
  }, [model.modelId, given]);
  return found?.given === given ? found : {};
}

function Form({ model, given, change }: { model: Model; given: Given; change: (given: Given) => void }): JSX.Element {
  const kind = kindOf(model);
  if (kind === "image") return <PictureField given={given} change={change} />;
  const texts = kind === "texts";
  return (
    <div class="field">
      <label for="given">{texts ? "Texts, one a line" : "Input tensors, as JSON"}</label>
      <textarea
        id="given"
        class={texts ? "" : "mono"}
        rows={texts ? 5 : 9}
        spellcheck={texts}
        value={given.text}
        onInput={(event) => change({ ...given, text: event.currentTarget.value })}
      />
    </div>
  );
}

function PictureField({ given, change }: { given: Given; change: (given: Given) => void }): JSX.Element {
  const [over, setOver] = useState(false);
  const take = async (file: File | undefined) => {
    if (!file) return;
    if (given.image) URL.revokeObjectURL(given.image.url);
    const bytes = new Uint8Array(await file.arrayBuffer());
    change({ ...given, image: { name: file.name, bytes, url: URL.createObjectURL(file) } });
  };
  const stop = (event: Event, hovering: boolean) => {
    event.preventDefault();
    setOver(hovering);
  };
  return (
    <div
      class={over ? "drop over" : "drop"}
      onDragOver={(event) => stop(event, true)}
      onDragLeave={(event) => stop(event, false)}
      onDrop={(event) => {
        stop(event, false);
        void take(event.dataTransfer?.files[0]);
      }}
    >
      <label for="picture">Picture (PNG, JPEG or WebP): drop it here, or choose a file</label>
      <input
        id="picture"
        type="file"
        accept="image/png,image/jpeg,image/webp"
        onChange={(event) => void take(event.currentTarget.files?.[0])}
      />
      {given.image && <img src={given.image.url} alt={`What is sent: ${given.image.name}`} />}
    </div>
  );
}

function Paper({ outcome }: { outcome: Outcome }): JSX.Element {
  const bad = outcome.checks.filter((check) => check.holds === false);
  const { receipt } = outcome.paper;
  return (
    <Card title="Receipt">
      <div class="row apart">
        <p class="row">
          {bad.length === 0 ? <Badge tone="good">Verified</Badge> : <Badge tone="bad">{`${bad.length} checks fail`}</Badge>}
          <span>
            charged <strong>{money(outcome.charged)}</strong>, answered in {milliseconds(outcome.took)}
          </span>
        </p>
        <a href={href("receipts", receipt.requestId)}>Look it up on chain</a>
      </div>
      <ul class="checks">
        {outcome.checks.map((check) => (
          <li key={check.name}>
            <span class={`sign ${check.holds ? "yes" : "no"}`} aria-hidden="true">
              {check.holds ? "✓" : "✗"}
            </span>
            <div>
              {check.name}
              <span class="hidden">{check.holds ? ": holds" : ": does not hold"}</span>
              <p>{check.detail}</p>
            </div>
          </li>
        ))}
      </ul>
    </Card>
  );
}

function Snippets({ model, given }: { model: Model; given: Given }): JSX.Element {
  const [shown, setShown] = useState("curl");
  const origin = window.location.origin;
  const code = useMemo(() => ({ curl: curl(model, given, origin), Python: python(model, given, origin) }), [model.modelId, given]);
  const text = code[shown as keyof typeof code];
  return (
    <Card title="The same call">
      <div class="row apart">
        <div class="tabs" role="group" aria-label="Language">
          {Object.keys(code).map((name) => (
            <button key={name} type="button" aria-pressed={name === shown} onClick={() => setShown(name)}>
              {name}
            </button>
          ))}
        </div>
        <Copy text={text} />
      </div>
      <pre tabIndex={0} aria-label={`The call in ${shown}`}>
        {text}
      </pre>
      {shown === "curl" && (
        <p class="after quiet">
          <code>$MARKET_VOUCHER</code> is a voucher that covers the price: channel id, total, signature.
        </p>
      )}
    </Card>
  );
}
