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

/** Ink or paper, whichever is read more easily on a colour that lies on paper with some opacity. */
export function readable(p: Palette, colour: string, opacity: number): string {
  const paper = channels(p.paper);
  const ground = luminance(channels(colour).map((x, i) => opacity * x + (1 - opacity) * paper[i]));
  const contrast = (other: number) => (Math.max(ground, other) + 0.05) / (Math.min(ground, other) + 0.05); // WCAG 2
  return contrast(luminance(channels(p.ink))) >= contrast(luminance(paper)) ? p.ink : p.paper;
}

/** Red, green and blue of `#rrggbb`, from 0 to 1. */
function channels(colour: string): number[] {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
}

/** Relative luminance (WCAG 2). */
function luminance(rgb: number[]): number {
  const [r, g, b] = rgb.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

type Theme = "light" | "dark";

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
