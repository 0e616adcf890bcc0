/** Colours, as the style sheet has them, for what is drawn rather than styled. */

const NAMES = [
  "ink",
  "quiet",
  "faint",
  "paper",
  "panel",
  "accent",
  "positive",
  "negative",
  "query",
  "key",
  "value",
  "mlp",
  "logits",
  "first",
  "second",
  "shared",
] as const;

export type Palette = Record<(typeof NAMES)[number], string>;

/** The colours in force. */
export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()])) as Palette;
}

export type Theme = "light" | "dark";

export function theme(): Theme {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === "light" || chosen === "dark") return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** Call when the system's own light or dark changes, or printing begins or ends. */
export function onThemeChange(redraw: () => void, until: { signal: AbortSignal }): void {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw, until);
  for (const event of ["beforeprint", "afterprint"]) addEventListener(event, redraw, until);
}

export function switchTheme(): void {
  document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
}
