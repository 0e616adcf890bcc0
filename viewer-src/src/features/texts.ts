/** Tokens as text that can be read: blanks, line ends and what would turn the line around are shown for what they are. */

import type { TokenText } from "./set";
import { visible } from "../words";

/** One token by itself. */
export function alone(token: TokenText): string {
  return typeof token === "string" ? visible(token) || "∅" : bytes(token);
}

function bytes(values: readonly number[]): string {
  return values.map((x) => `\\x${x.toString(16).padStart(2, "0")}`).join("");
}

/** Tokens one after the other: characters of which each holds a part stand with the last of them. */
export function inARow(tokens: TokenText[]): string[] {
  const decoder = new TextDecoder();
  const encoder = new TextEncoder();
  return tokens.map((token, i) => {
    if (typeof token === "string" && (i === 0 || typeof tokens[i - 1] === "string")) return visible(token);
    const raw = typeof token === "string" ? encoder.encode(token) : Uint8Array.from(token);
    return visible(decoder.decode(raw, { stream: i + 1 < tokens.length })) || "·";
  });
}
