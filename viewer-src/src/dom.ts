/** Making elements. Text is only ever set as text, so that nothing from a model or a file becomes markup. */

import { unturned } from "./words";

export type Child = Node | string | null | undefined | false;
type Value = string | number | boolean | ((event: never) => void) | null | undefined;
export type Attributes = Record<string, Value>;

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick`, …) and children; what is null, undefined or false is left out. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  setAttributes(made, attributes);
  append(made, children);
  return made;
}

/** The same for SVG. */
export function vector<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[K] {
  const made = document.createElementNS(SVG, tag);
  setAttributes(made, attributes);
  append(made, children);
  return made;
}

/** Put these children in the place of those that are there; the focus stays, if it was in one of them. */
export function fill(parent: HTMLElement, ...children: Child[]): void {
  const lost = document.activeElement;
  const place = parent.contains(lost) ? controls(parent).indexOf(lost as HTMLElement) : -1;
  parent.replaceChildren();
  append(parent, children);
  if (place >= 0) refocus(parent, lost as HTMLElement, place);
}

function controls(parent: HTMLElement): HTMLElement[] {
  return [...parent.querySelectorAll<HTMLElement>("button, input, select, textarea, summary")];
}

/** Focus what took a control's place; where that is another one, the whole, which is then read from its beginning. */
function refocus(parent: HTMLElement, lost: HTMLElement, place: number): void {
  const all = controls(parent);
  const near = [...all.slice(place), ...all.slice(0, place).reverse()].find((each) => !each.matches(":disabled, [hidden]"));
  const name = (control: HTMLElement) => control.getAttribute("aria-label") ?? control.textContent;
  const same = near && (name(near) === name(lost) || [near, lost].every((each) => each.hasAttribute("aria-pressed")));
  (same || parent.tabIndex < 0 ? near : parent)?.focus({ preventScroll: true });
  if (same && isText(near) && isText(lost)) near.setSelectionRange(lost.selectionStart, lost.selectionEnd);
}

/** Whether a control has a place where one types. */
function isText(control: HTMLElement): control is HTMLInputElement | HTMLTextAreaElement {
  return control instanceof HTMLTextAreaElement || (control instanceof HTMLInputElement && control.selectionStart !== null);
}

let isDown = false; // a pointer
const waiting: (() => void)[] = [];
const goOn = () => waiting.splice(0).forEach((what) => what());
const release = () => {
  isDown = false;
  setTimeout(goOn); // after the click
};
addEventListener("pointerdown", () => { isDown = true; }, true);
// The list of a `select`, a context menu and another window can swallow `pointerup`.
for (const end of ["pointerup", "pointercancel", "contextmenu"]) addEventListener(end, release, true);
addEventListener("pointermove", (event) => { if (isDown && !event.buttons) release(); }, true);
// A field's `change` and `blur` come while what ends its typing is still pressed: of these, a `select`'s and the window's.
addEventListener("change", (event) => { if (event.target instanceof HTMLSelectElement) release(); }, true);
addEventListener("blur", release);

/** Do something that replaces controls once a control that is pressed has had its click, or the focus is where it goes. */
export function afterPress(what: () => void): void {
  waiting.push(what);
  if (!isDown) setTimeout(goOn);
}

/** Whether what runs now was set off by a field that is being left, by a press elsewhere or with the Tab key. */
export function isLeavingField(): boolean {
  const field = window.event?.type === "change" ? window.event.target : null;
  return field instanceof HTMLInputElement && field !== document.activeElement;
}

/** A button with a text, and what it does. */
export function button(text: string, onclick: () => void, attributes: Attributes = {}): HTMLButtonElement {
  return element("button", { type: "button", onclick, ...attributes }, text);
}

/** A choice among some, each with its words. */
export function chooser(name: string, choices: [string, string][], value: string, choose: (value: string) => void): HTMLElement {
  const select = element("select", { "aria-label": name }, ...choices.map(([key, words]) => element("option", { value: key }, words)));
  select.value = value;
  select.addEventListener("change", () => choose(select.value));
  return element("span", { class: "choice" }, name, " ", select);
}

/** A list of terms, each with what is said of it. */
export function terms(rows: readonly (readonly [string, Child])[]): HTMLElement {
  return element("dl", {}, ...rows.flatMap(([name, what]) => [element("dt", {}, name), element("dd", {}, what)]));
}

function setAttributes(made: Element, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      made.addEventListener(name.slice(2), value as EventListener);
    } else if (value === true) {
      made.setAttribute(name, "");
    } else if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, String(value));
    }
  }
}

function append(parent: Element, children: Child[]): void {
  for (const child of children) {
    if (child) parent.append(typeof child === "string" ? unturned(child) : child);
  }
}
