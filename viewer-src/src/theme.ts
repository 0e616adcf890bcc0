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

/** The system's own choice; a worker, which runs this script too, has none. */
const dark = typeof matchMedia === "undefined" ? null : matchMedia("(prefers-color-scheme: dark)");
let chosen = false; // by a person, from when on the system's choice counts no more

export function theme(): Theme {
  return document.documentElement.dataset.theme === "dark" ? "dark" : "light";
}

/** Be light or dark as the system is, until a person says otherwise. Called once, before anything is drawn. */
export function followSystem(): void {
  const follow = () => {
    if (!chosen) document.documentElement.dataset.theme = dark?.matches ? "dark" : "light";
  };
  follow();
  dark?.addEventListener("change", follow);
}

/** Call when the system's own light or dark changes, or printing begins or ends. */
export function onThemeChange(redraw: () => void, until: { signal: AbortSignal }): void {
  dark?.addEventListener("change", redraw, until);
  for (const event of ["beforeprint", "afterprint"]) addEventListener(event, redraw, until);
}

export function switchTheme(): void {
  chosen = true;
  document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
}
