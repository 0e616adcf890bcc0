/** Rows of the lists in the panel. */

import { button, element } from "../dom";
import { count } from "../words";

const FIRST = 40; // rows of a list before "all of them" is asked for

/** A row of a list: a name, a bar of a signed share, and numbers; maybe a line of words below. */
export function listRow(
  words: string,
  share: number,
  numbers: string[],
  side: string | null,
  choose: () => void,
  under: string | null = null,
): HTMLLIElement {
  const bar = element("meter", { min: 0, max: 1, value: Math.min(Math.abs(share), 1), "aria-hidden": "true" });
  if (share < 0) bar.classList.add("below");
  return element(
    "li",
    {},
    element(
      "button",
      { type: "button", class: `row${side ? ` side-${side}` : ""}${under ? " tall" : ""}`, onclick: choose },
      element("span", { class: "name", title: words }, words),
      bar,
      ...numbers.map((each, i) => element("span", { class: i ? "numbers rank" : "numbers" }, each)),
      under && element("span", { class: "under" }, under),
    ),
  );
}

/** A list's first rows, and the rest on a click. */
export function limited(rows: HTMLLIElement[]): HTMLElement {
  const list = element("ul", { class: "rows" }, ...rows.slice(0, FIRST));
  if (rows.length <= FIRST) return list;
  const more = button(`All ${count(rows.length)}`, () => {
    list.append(...rows.slice(FIRST));
    more.remove();
  });
  return element("div", {}, list, more);
}
