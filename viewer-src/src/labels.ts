/** People's words for components, in a file. */

import { saveJson } from "./files";

const KIND = "edgewise labels";
const LONGEST = 80;

export function labelsFile(labels: ReadonlyMap<string, string>): void {
  saveJson("labels", { kind: KIND, labels: [...labels] });
}

/** The labels in a file's text. Raises an error that says what is wrong with it. */
export function readLabels(text: string): Map<string, string> {
  const wrong = new Error("this is no file of labels that this viewer saved");
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw wrong;
  }
  const rows = content && typeof content === "object" && "labels" in content ? content.labels : null;
  if (!Array.isArray(rows)) throw wrong;
  const pairs = rows.map((row: unknown): [string, string] => {
    if (!Array.isArray(row) || typeof row[0] !== "string" || typeof row[1] !== "string") throw wrong;
    return [row[0], row[1].slice(0, LONGEST)];
  });
  return new Map(pairs);
}
