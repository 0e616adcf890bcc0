/** Making elements. Text is only ever set as text, so that nothing from a model or a file becomes markup. */

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

/** Put these children in the place of those that are there. */
export function fill(parent: Element, ...children: Child[]): void {
  parent.replaceChildren();
  append(parent, children);
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
    if (child) parent.append(child);
  }
}
