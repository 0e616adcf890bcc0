/** Rows of a sorted list: a name, a bar of a signed share, numbers, and maybe a line below and a button beside them. */

import { button, element } from "../dom";
import { count } from "../words";

const FIRST = 40; // rows of a list before more are asked for
const MOST = 1000;

export interface Row {
  words: string;
  numbers: string;
  /** The bar's length, from −1 to 1; null for no bar. */
  share: number | null;
  choose(): void;
  /** More numbers, in a line of their own. */
  under?: string | null;
  /** What a second button of the row does. */
  why?: (() => void) | null;
}

export function row({ words, numbers, share, choose, under, why }: Row): HTMLLIElement {
  const bar = share === null ? null : element("meter", { min: 0, max: 1, value: Math.min(Math.abs(share), 1), "aria-hidden": "true" });
  if (bar && share! < 0) bar.classList.add("below");
  const main = element(
    "button",
    { type: "button", class: under ? "row tall" : "row", onclick: choose },
    element("span", { class: "name", title: words }, words.replaceAll("\n", "⏎")),
    bar,
    element("span", { class: "numbers wide" }, numbers),
    under && element("span", { class: "under" }, under),
  );
  if (!why) return element("li", {}, main);
  return element("li", { class: "pair" }, main, button("why", why, { class: "why", title: "Through which heads, and why they look there", "aria-label": `Why ${words}` }));
}

/** The first of some rows, and more of them on a click; rows are made when they are shown. */
export function rowsOf(n: number, make: (place: number) => HTMLLIElement): HTMLElement {
  if (!n) return element("p", { class: "none" }, "none");
  const made = (from: number, to: number) => Array.from({ length: Math.min(to, n) - from }, (_, i) => make(from + i));
  const list = element("ul", { class: "rows" }, ...made(0, FIRST));
  if (n <= FIRST) return list;
  const more = button(`${count(Math.min(n, MOST))} of ${count(n)}`, () => {
    list.append(...made(FIRST, MOST));
    more.remove();
  });
  return element("div", {}, list, more);
}
