/** Rows of a sorted list: a name, a bar of a signed share, numbers, and maybe a line below and a button beside them. */

import { button, element } from "./dom";
import type { Side } from "./circuits/scene";
import { count } from "./words";

const FIRST = 40; // rows of a list before more are asked for,
const MORE = 1000; // which so many are each time

export interface Row {
  words: string;
  numbers: string;
  /** The bar's length, from −1 to 1; null for no bar. */
  share: number | null;
  choose(): void;
  /** The place among all, in a column of its own. */
  rank?: string;
  /** Of two circuits: which has it. */
  side?: Side | null;
  /** More numbers, in a line of their own. */
  under?: string | null;
  /** What a second button of the row does. */
  why?: (() => void) | null;
}

export function row({ words, numbers, share, choose, rank, side, under, why }: Row): HTMLLIElement {
  const bar = share === null ? null : element("meter", { min: 0, max: 1, value: Math.min(Math.abs(share), 1), "aria-hidden": "true" });
  if (bar && share! < 0) bar.classList.add("below");
  const main = element(
    "button",
    { type: "button", class: `row${side ? ` side-${side}` : ""}${under ? " tall" : ""}`, onclick: choose },
    element("span", { class: "name", title: words }, words.replaceAll("\n", "⏎")),
    bar,
    element("span", { class: rank === undefined ? "numbers wide" : "numbers" }, numbers),
    rank !== undefined && element("span", { class: "numbers rank" }, rank),
    under && element("span", { class: "under" }, under),
  );
  if (!why) return element("li", {}, main);
  return element("li", { class: "pair" }, main, button("why", why, { class: "why", title: "Through which heads, and why they look there", "aria-label": `Why ${words}` }));
}

/** The first of some rows, and more of them on each click; rows are made when they are shown. */
export function rowsOf(n: number, make: (place: number) => HTMLLIElement): HTMLElement {
  if (!n) return element("p", { class: "none" }, "none");
  const list = element("ul", { class: "rows" });
  const more = button("", () => {
    const first = list.children.length;
    add(MORE);
    if (more.hidden) list.children[first].querySelector("button")?.focus();
  });
  const add = (some: number) => {
    const to = Math.min(list.children.length + some, n);
    for (let place = list.children.length; place < to; place++) list.append(make(place));
    more.textContent = to + MORE < n ? `${count(to + MORE)} of ${count(n)}` : `All ${count(n)}`;
    more.hidden = to === n;
  };
  add(FIRST);
  return n > FIRST ? element("div", {}, list, more) : list;
}
