// The checks of a receipt, each with its answer in a sign, in words, and in detail.

import type { JSX } from "preact";
import type { Check } from "../protocol/verify.ts";

export function Checks({ checks }: { checks: Check[] }): JSX.Element {
  return (
    <ul class="checks">
      {checks.map((check) => (
        <li key={check.name}>
          <span class={`sign ${check.holds === undefined ? "open" : check.holds ? "yes" : "no"}`} aria-hidden="true">
            {check.holds === undefined ? "…" : check.holds ? "✓" : "✗"}
          </span>
          <div>
            {check.name}
            <span class="hidden">
              {check.holds === undefined ? ": not known yet" : check.holds ? ": holds" : ": does not hold"}
            </span>
            <p>{check.detail}</p>
          </div>
        </li>
      ))}
    </ul>
  );
}
