// Small parts that every page is made of.

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useState } from "preact/hooks";
import { Broken, Refused } from "../api.ts";
import { short } from "../format.ts";
import { href } from "../route.ts";

export function Loading(): JSX.Element {
  return (
    <p class="quiet" role="status">
      Loading …
    </p>
  );
}

export function Failure({ error }: { error: Error }): JSX.Element {
  const refused = error instanceof Refused ? error : undefined;
  return (
    <div class="notice bad" role="alert">
      <p>
        {error.message} {refused && <code>{refused.code}</code>}
      </p>
      {refused?.problem.remedy && <p>{refused.problem.remedy}</p>}
      {error instanceof Broken && (
        <p>
          <a href={href("receipts", error.requestId)}>Look for its receipt</a>
        </p>
      )}
    </div>
  );
}

export function Heading({ title, children }: { title: string; children?: ComponentChildren }): JSX.Element {
  return (
    <div class="heading">
      <h1>{title}</h1>
      {children && <p class="lead">{children}</p>}
    </div>
  );
}

export function Card({
  title,
  children,
  class: extra = "",
}: {
  title?: string;
  children: ComponentChildren;
  class?: string;
}): JSX.Element {
  const id = useId();
  return (
    <section class={`card ${extra}`} aria-labelledby={title ? id : undefined}>
      {title && <h2 id={id}>{title}</h2>}
      {children}
    </section>
  );
}

export interface Fact {
  name: string;
  value: ComponentChildren;
  note?: string;
}

/** Numbers that are read at a glance. */
export function Facts({ facts, class: extra = "" }: { facts: Fact[]; class?: string }): JSX.Element {
  return (
    <dl class={`facts ${extra}`}>
      {facts.map((fact) => (
        <div key={fact.name}>
          <dt>{fact.name}</dt>
          <dd>
            {fact.value}
            {fact.note && <small>{fact.note}</small>}
          </dd>
        </div>
      ))}
    </dl>
  );
}

/** Names and values, one a line. */
export function Details({ rows }: { rows: [string, ComponentChildren][] }): JSX.Element {
  return (
    <dl class="details">
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export interface Column<T> {
  name: string;
  cell: (row: T) => ComponentChildren;
  number?: boolean;
}

/** A table that scrolls by itself where the screen is narrow, by keyboard too. */
export function Table<T>({
  caption,
  columns,
  rows,
  empty = "Nothing yet.",
}: {
  caption: string;
  columns: Column<T>[];
  /** Undefined while they are being read. */
  rows: T[] | undefined;
  empty?: string;
}): JSX.Element {
  if (rows === undefined) return <Loading />;
  if (rows.length === 0) return <p class="quiet">{empty}</p>;
  return (
    <div class="scroll" role="region" aria-label={caption} tabIndex={0}>
      <table>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column.name} scope="col" class={column.number ? "num" : undefined}>
                {column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => (
            <tr key={index}>
              {columns.map((column) => (
                <td key={column.name} class={column.number ? "num" : undefined}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export type Tone = "good" | "bad" | "warn" | "plain";

export function Badge({ tone = "plain", children }: { tone?: Tone; children: ComponentChildren }): JSX.Element {
  return <span class={`badge ${tone}`}>{children}</span>;
}

/** An address or hash, shortened for the eye and whole for everybody else. */
export function Hex({ value, page }: { value: string; page?: string }): JSX.Element {
  const text = (
    <>
      <span aria-hidden="true">{short(value)}</span>
      <span class="hidden">{value}</span>
    </>
  );
  return page ? (
    <a class="mono" href={href(page, value)} title={value}>
      {text}
    </a>
  ) : (
    <span class="mono" title={value}>
      {text}
    </span>
  );
}

/** An address or hash that can be copied whole. */
export function Copied({ value }: { value: string }): JSX.Element {
  return (
    <span class="row">
      <Hex value={value} />
      <Copy text={value} />
    </span>
  );
}

export function Copy({ text, label = "Copy" }: { text: string; label?: string }): JSX.Element {
  const [said, setSaid] = useState("");
  useEffect(() => {
    const timer = window.setTimeout(() => setSaid(""), 2_000);
    return () => window.clearTimeout(timer);
  }, [said]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setSaid("Copied");
    } catch {
      setSaid("Select and copy by hand");
    }
  };
  return (
    <button type="button" class="small" onClick={copy}>
      {label}
      <span role="status" class="said">
        {said && ` · ${said}`}
      </span>
    </button>
  );
}
