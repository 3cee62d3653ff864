// From the API's buckets and minutes to points of a plot, with the gaps filled.

import type { Bucket, Minute, Past } from "../api.ts";
import { clock } from "../format.ts";
import type { Point } from "./plot.tsx";

/** One point a step from `since` until now; what did not happen is zero. */
export function overTime(past: Past, value: (bucket: Bucket) => number, now = Date.now() / 1000): Point[] {
  const sums = new Map<number, number>();
  for (const bucket of past.buckets) sums.set(bucket.at, (sums.get(bucket.at) ?? 0) + value(bucket));
  const first = past.since - (past.since % past.stepSeconds);
  const points: Point[] = [];
  for (let at = first; at <= now && points.length < 500; at += past.stepSeconds) {
    points.push({ label: label(at, past.stepSeconds), value: sums.get(at) ?? 0 });
  }
  return points;
}

function label(at: number, step: number): string {
  if (step < 86_400) return clock(at);
  return new Date(at * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

/** The last hour, minute by minute. */
export function lastHour(
  history: Minute[],
  value: (minute: Minute) => number | null,
  missing: number | null,
  now = Date.now() / 1000,
): Point[] {
  const byMinute = new Map(history.map((minute) => [minute.at, minute]));
  const end = Math.floor(now / 60) * 60;
  return Array.from({ length: 60 }, (_, index) => {
    const at = end - (59 - index) * 60;
    const found = byMinute.get(at);
    return { label: clock(at), value: found ? value(found) : missing };
  });
}
