// Plots as plain SVG: bars or a line over steps of time, with the same numbers as a table for who cannot see them.

import type { JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { Loading } from "./parts.tsx";

export interface Point {
  label: string;
  value: number | null;
}

/** Wider than this a plot is drawn larger; narrower, with fewer units, so that its words stay readable on a phone. */
const WIDEST = 470;
const NARROWEST = 240;
const HEIGHT = 172;
const WIDEST_BAR = 42;
const LEFT = 58;
const BOTTOM = 24;
const TOP = 10;

/** The next round number whose half is round too, so that the axis has few digits and counts stay whole. */
function roundUp(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((top) => top >= value * 0.999)!;
}

/** The width at hand, in pixels, between the narrowest and the widest that a plot is drawn for. */
function useRoom(): [{ current: HTMLElement | null }, number] {
  const place = useRef<HTMLElement>(null);
  const [room, setRoom] = useState(WIDEST);
  useEffect(() => {
    if (!place.current) return undefined;
    const watch = new ResizeObserver(([entry]) =>
      setRoom(Math.round(Math.min(WIDEST, Math.max(NARROWEST, entry!.contentRect.width)))),
    );
    watch.observe(place.current);
    return () => watch.disconnect();
  }, []);
  return [place, room];
}

export function Plot({
  title,
  points: given,
  format,
  kind = "bars",
  empty = "Nothing in this time.",
}: {
  title: string;
  /** Undefined while they are being read. */
  points: Point[] | undefined;
  format: (value: number) => string;
  kind?: "bars" | "line";
  empty?: string;
}): JSX.Element {
  const id = useId();
  const [place, wide] = useRoom();
  const [hovered, setHovered] = useState<number | null>(null);
  const points = given ?? [];
  const values = points.map((point) => point.value ?? 0);
  const highest = Math.max(...values, 0);
  if (points.length === 0 || highest === 0) {
    return (
      <figure class="plot" ref={place}>
        <figcaption id={id}>{title}</figcaption>
        {given === undefined ? <Loading /> : <p class="quiet">{empty}</p>}
      </figure>
    );
  }
  const top = roundUp(highest);
  const step = (wide - LEFT - 6) / points.length;
  const width = Math.min(WIDEST_BAR, Math.max(1, step - Math.min(4, step * 0.3)));
  const y = (value: number) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const x = (index: number) => LEFT + step * (index + 0.5);
  const marks = top === 1 ? [0, 1] : [0, top / 2, top];
  const everyLabel = Math.max(1, Math.ceil(points.length / 5));
  const drawn = points.map((point, index) => ({ ...point, index })).filter((point) => point.value !== null);
  const shown = hovered === null ? undefined : points[hovered];
  return (
    <figure class="plot" ref={place} aria-labelledby={id}>
      <figcaption id={id}>
        {title}
        <span class="plot-now" aria-hidden="true">
          {shown ? `${shown.label}: ${shown.value === null ? "–" : format(shown.value)}` : `highest ${format(highest)}`}
        </span>
      </figcaption>
      <svg viewBox={`0 0 ${wide} ${HEIGHT}`} aria-hidden="true" onPointerLeave={() => setHovered(null)}>
        {marks.map((mark) => (
          <g key={mark}>
            <line x1={LEFT} x2={wide - 6} y1={y(mark)} y2={y(mark)} class="grid" />
            <text x={LEFT - 8} y={y(mark) + 4} class="tick end">
              {format(mark)}
            </text>
          </g>
        ))}
        {points.map((point, index) =>
          index % everyLabel === 0 ? (
            <text key={index} x={x(index)} y={HEIGHT - 6} class="tick middle">
              {point.label}
            </text>
          ) : null,
        )}
        {kind === "line" && (
          <path
            class="line"
            d={drawn.map((point, n) => `${n === 0 ? "M" : "L"}${x(point.index).toFixed(1)} ${y(point.value!).toFixed(1)}`).join("")}
          />
        )}
        {drawn.map((point) =>
          kind === "bars" ? (
            <rect
              key={point.index}
              x={x(point.index) - width / 2}
              width={width}
              y={y(point.value!)}
              height={Math.max(0, HEIGHT - BOTTOM - y(point.value!))}
              rx={Math.min(3, step / 4)}
              class={hovered === point.index ? "bar on" : "bar"}
            />
          ) : (
            <circle key={point.index} cx={x(point.index)} cy={y(point.value!)} r={hovered === point.index ? 4 : 2.8} class="dot" />
          ),
        )}
        {points.map((_, index) => (
          <rect
            key={index}
            x={LEFT + step * index}
            y={0}
            width={step}
            height={HEIGHT}
            class="catch"
            onPointerEnter={() => setHovered(index)}
          />
        ))}
      </svg>
      <details>
        <summary>{`As a table: ${title}`}</summary>
        <table>
          <thead>
            <tr>
              <th scope="col">When</th>
              <th scope="col" class="num">
                Value
              </th>
            </tr>
          </thead>
          <tbody>
            {drawn
              .filter((point) => point.value !== 0)
              .map((point) => (
                <tr key={point.index}>
                  <td>{point.label}</td>
                  <td class="num">{format(point.value!)}</td>
                </tr>
              ))}
          </tbody>
        </table>
      </details>
    </figure>
  );
}
