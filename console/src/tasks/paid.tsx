// Around every task: the price before, the receipt after, the same call for other programs.

import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Model } from "../api.ts";
import { milliseconds, money } from "../format.ts";
import { price, type Paid } from "../pay/request.ts";
import type { Parameters, Tensor } from "../protocol/tensors.ts";
import { href } from "../route.ts";
import { Badge, Card, Copy } from "../ui/parts.tsx";
import { Checks } from "../ui/checks.tsx";
import { Unready } from "./tasks.ts";

const PRICE_DELAY_MS = 400;

export interface Price {
  price?: bigint;
  error?: Error;
}

/** The price of a request, a moment after `given` stopped changing. */
export function usePrice(model: Model, given: unknown, tensors: () => Tensor[], parameters: Parameters = {}): Price {
  const [found, setFound] = useState<Price & { given: unknown }>();
  useEffect(() => {
    let left = false;
    const timer = window.setTimeout(async () => {
      try {
        const asked = await price(model, tensors(), parameters);
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
  return found && found.given === given ? found : {};
}

/** Whether a request may cost less than its price: tokens are counted by who reads them. */
export const isCeiling = (model: Model): boolean => model.unit === "token" || model.unit === "million_tokens";

export function Asked({ model, price: asked, error }: Price & { model: Model }): JSX.Element {
  return (
    <p class="asked" role="status">
      {asked !== undefined ? (
        <>
          Price: <strong>{money(asked)}</strong>
          {isCeiling(model) && " at most"}
        </>
      ) : (
        <span class={error && !(error instanceof Unready) ? "complaint" : "quiet"}>{error?.message ?? "Asking for the price …"}</span>
      )}
    </p>
  );
}

export function PaperCard({ paid }: { paid: Paid }): JSX.Element {
  const bad = paid.checks.filter((check) => check.holds === false);
  const { receipt } = paid.paper;
  return (
    <Card title="Receipt">
      <div class="row apart">
        <p class="row">
          {bad.length > 0 ? (
            <Badge tone="bad">{`${bad.length} checks fail`}</Badge>
          ) : paid.checks.some((check) => check.holds === undefined) ? (
            <Badge tone="warn">Good, as far as it was read</Badge>
          ) : (
            <Badge tone="good">Verified</Badge>
          )}
          <span>
            charged <strong>{money(paid.charged)}</strong>, answered in {milliseconds(paid.took)}
          </span>
        </p>
        <a href={href("receipts", receipt.requestId)}>Look it up on chain</a>
      </div>
      <Checks checks={paid.checks} />
    </Card>
  );
}

/** The same call for other programs, by language. */
export function Snippets({ calls }: { calls: Record<string, string> }): JSX.Element {
  const [chosen, setChosen] = useState("curl");
  const shown = chosen in calls ? chosen : "curl";
  const text = calls[shown]!;
  return (
    <Card title="The same call">
      <div class="row apart">
        <div class="tabs" role="group" aria-label="Language">
          {Object.keys(calls).map((name) => (
            <button key={name} type="button" aria-pressed={name === shown} onClick={() => setChosen(name)}>
              {name}
            </button>
          ))}
        </div>
        <Copy text={text} />
      </div>
      <pre tabIndex={0} aria-label={`The call in ${shown}`}>
        {text}
      </pre>
      {text.includes('".market/') && (
        <p class="after quiet">
          <code>.market</code> is where <code>market channel open</code> keeps the wallet and the channel.
        </p>
      )}
      {text.includes("MARKET_KEY") && (
        <p class="after quiet">
          <code>MARKET_KEY</code> is the API key.
        </p>
      )}
      {text.includes("MARKET_VOUCHER") && (
        <p class="after quiet">
          <code>MARKET_VOUCHER</code> is a voucher that covers the price: channel id, total, signature, access. An API key does as
          well, in the header <code>Authorization: Bearer</code>.
        </p>
      )}
    </Card>
  );
}
