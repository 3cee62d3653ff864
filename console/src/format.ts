// How amounts, times, hashes and shares are written; money stays a bigint of atomic units until here.

const UNIT = 1_000_000n;

/** Atomic units as dollars: at least three decimals, and as many as are needed to be exact. */
export function money(amount: string | bigint | null | undefined): string {
  if (amount === null || amount === undefined) return "–";
  const value = BigInt(amount);
  const whole = value / UNIT;
  const rest = (value % UNIT).toString().padStart(6, "0").replace(/0{1,4}$/, "");
  return `$${whole.toLocaleString("en")}.${rest.padEnd(2, "0")}`;
}

/** Dollars as typed into atomic units, or null if that is not an amount. */
export function atomic(text: string): bigint | null {
  const found = /^\s*\$?(\d{1,9})(?:\.(\d{0,6}))?\s*$/.exec(text);
  return found ? BigInt(found[1]!) * UNIT + BigInt((found[2] ?? "").padEnd(6, "0")) : null;
}

export function number(value: number | string | null | undefined): string {
  return value === null || value === undefined ? "–" : Number(value).toLocaleString("en");
}

export function share(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return value === 1 ? "100 %" : `${(Math.floor(value * 1000) / 10).toFixed(1)} %`;
}

/** What a price is for. */
export const unitName = (unit: string): string => (unit === "second" ? "second of audio" : unit.replaceAll("_", " "));

/** A price for one of what is counted, by which models are compared. */
export const priceOfOne = (unit: string, price: bigint): number => Number(price) / (unit === "million_tokens" ? 1e6 : 1);

export function ppm(value: number): string {
  return `${(value / 10_000).toLocaleString("en", { maximumFractionDigits: 2 })} %`;
}

export function milliseconds(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 ms";
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return value >= 10 ? `${Math.round(value)} ms` : `${value.toFixed(1)} ms`;
}

/** The first and last digits of an address or hash. */
export function short(hex: string, digits = 6): string {
  return hex.length <= 2 * digits + 3 ? hex : `${hex.slice(0, digits + 2)}…${hex.slice(-4)}`;
}

export function time(seconds: number): string {
  return new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}

export function clock(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${number(count)} ${count === 1 ? one : many}`;
}
