/** Numbers as people read them. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 70,651 */
export function count(n: number): string {
  return whole.format(n);
}

/** Three digits that count: 0.434, 12.3, 1.2e-5. */
export function amount(x: number): string {
  const size = Math.abs(x);
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "none" : x > 0 ? "∞" : "−∞";
  if (size === 0) return "0";
  const text = size >= 1e5 || size < 1e-3 ? size.toExponential(2) : size >= 999.5 ? whole.format(size) : size.toPrecision(3);
  return x < 0 ? `−${text}` : text;
}

/** The same with its sign, also a plus. */
export function signedAmount(x: number): string {
  return x > 0 ? `+${amount(x)}` : amount(x);
}

/** 98.0 % */
export function percent(share: number, digits = 1): string {
  return `${share < 0 ? "−" : ""}${(100 * Math.abs(share)).toFixed(digits)} %`;
}

/** The largest of some numbers and a least one; spread as arguments, a hundred thousand are too many. */
export function largestOf(values: Iterable<number>, least: number): number {
  let found = least;
  for (const value of values) found = Math.max(found, value);
  return found;
}

/** The smallest of some numbers and a most one. */
export function smallestOf(values: Iterable<number>, most: number): number {
  let found = most;
  for (const value of values) found = Math.min(found, value);
  return found;
}

const TURNING = /[\u202a-\u202e\u2066-\u2069]/g;

/** A text with the characters shown that would turn round what stands after them, as a token may have. */
export function unturned(text: string): string {
  return text.replace(TURNING, (c) => `⟨${c.codePointAt(0)!.toString(16).toUpperCase()}⟩`);
}

/** 1 edge, 2 edges */
export function several(n: number, word: string): string {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}
