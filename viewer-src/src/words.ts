/** Numbers, tokens and names as people read them. */

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

const spelled = (c: string) => `⟨${c.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}⟩`;
const TURNING = /[\u202a-\u202e\u2066-\u2069]/g;

/** A text with the characters shown that would turn round what stands after them, as a token may have. */
export function unturned(text: string): string {
  return text.replace(TURNING, spelled);
}

const HIDDEN = /[\p{Cc}\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu; // controls, and marks that are not seen
const SIGNS: ReadonlyMap<string, string> = new Map([
  ["\n", "⏎"],
  ["\r", "␍"],
  ["\t", "⇥"],
]);

/** A text in which nothing is hidden. */
export function visible(text: string): string {
  return text.replace(HIDDEN, (c) => SIGNS.get(c) ?? spelled(c));
}

/** A token within a sentence, its blanks counted where a page would show one. */
export function quote(token: string): string {
  return `“${visible(token).replace(/ {2,}/g, (blanks) => "␣".repeat(blanks.length))}”`;
}

const LEFTWARD = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/; // Unicode's blocks from Hebrew to Arabic, and their presentation forms

/** An edge by its ends; between two names that are read from the right, the arrow would point back. */
export function arrow(from: string, to: string): string {
  const mark = LEFTWARD.test(from) && LEFTWARD.test(to) ? "\u200e" : "";
  return `${from}${mark} → ${mark}${to}`;
}

/** As much of a text as there is room for, whole characters. */
export function clipped(text: string, room: number): string {
  const characters = Array.from(text);
  return characters.length <= room ? text : room > 1 ? `${characters.slice(0, room - 1).join("")}…` : "";
}

/** 1 edge, 2 edges */
export function several(n: number, word: string): string {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}
