/** What a neuron or feature is about: the tokens that it speaks for, and those on which it fires, as text. */

import { type AttributionGraph, type Dashboard, FEATURE } from "./graph";
import { type Child, element, terms } from "../dom";
import { percent, quote, signedAmount } from "../words";

const FIRST = 4; // contexts before the rest are asked for
const MARKED = 0.5; // of a context's largest activation: tokens with as much are marked

/** The tokens that a node's decoder speaks for, as facts. */
export function written(graph: AttributionGraph, node: number): [string, string][] {
  const found = graph.parts.extras.writes.get(graph.parts.ids[node]);
  if (!found) return [];
  const said = (tokens: [string, number][]) => tokens.map(([token, x]) => `${quote(token)} ${signedAmount(x)}`).join(", ");
  return [["raises", said(found.raises)], ["lowers", said(found.lowers)]];
}

/** A feature's dashboard, where the page has it. */
export function dashboardOf(graph: AttributionGraph, node: number): Child[] {
  // circuit-tracer's errors were named `0_LAYER_POSITION`, as a feature of layer 0.
  if (graph.parts.kind[node] !== FEATURE) return [];
  const { ids, extras } = graph.parts;
  const id = ids[node];
  // `m12.f410@7` of edgewise, `12_410_7` of other tools
  const found = extras.dashboards.get(id.includes("@") ? id.slice(0, id.indexOf("@")) : id.slice(0, Math.max(id.lastIndexOf("_"), 0)));
  if (!found) return [];
  const facts: [string, string][] = [
    ["fires on", found.density === null ? "" : `${percent(found.density, 3)} of tokens`],
    ["top logits", quoted(found.top)],
    ["bottom logits", quoted(found.bottom)],
  ];
  const rest = found.contexts.slice(FIRST);
  return [
    element("h3", {}, "Dashboard"),
    terms(facts.filter((fact) => fact[1])),
    ...found.contexts.slice(0, FIRST).map(context),
    rest.length > 0 && element("details", {}, element("summary", {}, `${rest.length} more contexts`), ...rest.map(context)),
  ];
}

function quoted(tokens: string[]): string {
  return tokens.map(quote).join(", ");
}

function context({ tokens, values, at }: Dashboard["contexts"][number]): HTMLElement {
  const most = values[at];
  const words = tokens.map((token, i) => (most > 0 && values[i] >= MARKED * most ? element("mark", { title: signedAmount(values[i]) }, token) : token));
  return element("p", { class: "prompt context" }, element("span", { class: "numbers" }, `${signedAmount(most)} `), ...words);
}
