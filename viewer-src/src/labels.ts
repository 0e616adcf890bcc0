/** People's words for components, features and nodes: in a field, in an address, in a file. */

import { element } from "./dom";
import { saveJson } from "./files";
import { texts } from "./store";

export type Labels = ReadonlyMap<string, string>;

const KIND = "edgewise labels";
const LONGEST = 200; // as `_labels.py` reads them
const NONE: Labels = new Map();

/** A field for one label. */
export function labelField(name: string, labels: Labels, change: (words: string) => void, placeholder = ""): HTMLInputElement {
  return element("input", {
    type: "text",
    value: labels.get(name) ?? "",
    placeholder: placeholder || "a label of your own",
    "aria-label": `Label of ${name}`,
    maxlength: LONGEST,
    onchange: (event: Event) => change((event.target as HTMLInputElement).value.trim()),
  });
}

/** Labels with another one; without it where it has no words. */
export function withLabel(labels: Labels, name: string, words: string): Labels {
  const found = new Map(labels);
  if (words) found.set(name, words);
  else found.delete(name);
  return found;
}

/** Put labels into a fragment, but for those that the page was given; of these, one that was taken away is empty. */
export function writeLabels(found: URLSearchParams, labels: Labels, given = NONE): void {
  const gone = [...given.keys()].filter((name) => !labels.has(name)).map((name) => [name, ""]);
  const own = [...labels].filter(([name, label]) => given.get(name) !== label);
  for (const pair of [...own, ...gone]) found.append("label", JSON.stringify(pair));
}

/** The labels of a fragment and those that the page was given. */
export function labelsIn(found: URLSearchParams, given = NONE): Labels {
  let labels = given;
  for (const text of found.getAll("label")) {
    // Circuits wrote `a9.h3=name mover`.
    const [name, label] = text.startsWith("[") ? texts(text, 2) : text.split(/=(.*)/s);
    if (name !== undefined && label !== undefined) labels = withLabel(labels, name, label);
  }
  return labels;
}

/** Save labels to a file. */
export function labelsFile(labels: Labels): void {
  saveJson("labels", { kind: KIND, labels: [...labels] });
}

/** The labels in a file's text, in any of the forms that `_labels.py` reads of JSON. Raises an error that says what is wrong with it. */
export function readLabels(text: string): Map<string, string> {
  const wrong = new Error("this is no file of labels: neither one that this viewer saved nor a JSON object of names and labels");
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw wrong;
  }
  const isObject = (value: unknown): value is object => typeof value === "object" && value !== null;
  const inner: unknown = isObject(content) && "labels" in content && isObject(content.labels) ? content.labels : content;
  const rows: unknown[] = Array.isArray(inner) ? inner : isObject(inner) ? Object.entries(inner) : [];
  const isPair = (row: unknown): row is [string, string] => Array.isArray(row) && row.length === 2 && row.every((each) => typeof each === "string");
  const pairs = rows.filter(isPair).map(([name, words]): [string, string] => [name.trim(), words.trim().slice(0, LONGEST)]);
  if (!pairs.length) throw wrong;
  return new Map(pairs.filter(([, words]) => words));
}
