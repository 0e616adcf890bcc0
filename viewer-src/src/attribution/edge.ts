/** An edge of an attribution graph: its numbers, the heads that carry it, and why these look where they look. */

import { amount, arrow, largestOf, percent, quote, signedAmount } from "../words";
import type { AttributionGraph, HeadLoading, QueryKey, Reasons, Term, Why } from "./graph";
import { button, type Child, element, terms } from "../dom";
import { row, rowsOf } from "../rows";
import { type Actions, labelOf, name } from "./names";
import { besideEdge } from "./several";
import type { GraphState } from "./state";

const NAMED = 0.01; // of an edge: heads with less are not named
const MOST_NAMED = 4; // in a layer's line
const MOST_HEADS = 12; // in the list of the largest

export function edgeFacts(graph: AttributionGraph, state: GraphState, edge: number, actions: Actions): Child[] {
  const { sources, weight, extras } = graph.parts;
  const [source, target] = [sources[edge], graph.targetOf(edge)];
  const end = (node: number) => button(name(graph, state, node), () => actions.choose(node), { class: "link" });
  const facts: [string, Child][] = [
    ["from", end(source)],
    ["into", end(target)],
    [extras.several?.kind === "difference" ? "A − B" : "weight", signedAmount(weight[edge])],
    ["share", `${percent(weight[edge] / (graph.inputSize[target] || 1))} of the sizes of all that flows into it here`],
    ...(extras.several ? [["beside", besideEdge(extras.several, edge)] as [string, Child]] : []),
  ];
  const place = extras.reasons?.place.get(edge);
  const known = extras.reasons && place !== undefined ? heads(graph, state, extras.reasons, place, weight[edge], actions) : [element("p", { class: "fact" }, without(graph))];
  return [
    element("h2", {}, arrow(name(graph, state, source), name(graph, state, target)), " ", button("×", () => actions.choose(target), { class: "close", "aria-label": "Close the edge" })),
    terms(facts),
    ...known,
  ];
}

function without(graph: AttributionGraph): string {
  if (graph.parts.extras.several) return "The heads of an edge are those of one prompt: look at its graph.";
  if (graph.parts.extras.reasons) return "This edge was not split over heads: `edgewise view --evidence` with a larger number splits more.";
  return "Its heads are not in this page: `edgewise view RUN --evidence 200` puts them there.";
}

/** The largest heads of all layers, and every layer's split. */
function heads(graph: AttributionGraph, state: GraphState, reasons: Reasons, place: number, weight: number, actions: Actions): Child[] {
  const first = place * reasons.layers * reasons.heads;
  const through = Array.from(reasons.through.subarray(first, first + reasons.layers * reasons.heads));
  const why = reasons.whys[place];
  const order = [...through.keys()].filter((i) => through[i]).sort((a, b) => Math.abs(through[b]) - Math.abs(through[a]));
  const most = Math.abs(through[order[0]]) || 1;
  const largest = order.filter((i, rank) => rank < 3 || Math.abs(through[i] / weight) >= NAMED).slice(0, MOST_HEADS);
  const list = rowsOf(largest.length, (i) => {
    const [layer, head] = [Math.floor(largest[i] / reasons.heads), largest[i] % reasons.heads];
    const value = through[largest[i]];
    return row({ words: `a${layer}.h${head}`, numbers: `${signedAmount(value)} (${percent(value / weight, 0)})`, share: value / most, under: where(graph, why, layer, head), choose: () => undefined });
  });
  return [
    element("h3", {}, "Largest heads"),
    order.length ? list : element("p", { class: "none" }, "It passes no attention layer."),
    ...(why?.reasons.length ? [element("h3", {}, "Why they look there"), ...why.reasons.flatMap((each) => reason(graph, state, each, actions))] : []),
    order.length > 0 && element("h3", {}, "At each layer"),
    order.length > 0 && element("p", { class: "fact" }, "Every layer splits the whole edge: through its heads, and past them. There is no joint split over layers."),
    order.length > 0 && layers(reasons, place, through, weight),
  ];
}

/** By which positions a head takes the edge, where that is known. */
function where(graph: AttributionGraph, why: Why | null, layer: number, head: number): string | null {
  const found: HeadLoading | undefined = why?.layers.find((each) => each.layer === layer)?.heads.find((each) => each.head === head);
  return found ? `${at(graph, found.query)} looks at ${at(graph, found.key)} with ${percent(found.attention)}: ${signedAmount(found.at_pair)} of it` : null;
}

function at(graph: AttributionGraph, position: number): string {
  return `${quote(graph.parts.tokens[position] ?? "")}@${position}`;
}

function layers(reasons: Reasons, place: number, through: number[], weight: number): HTMLElement {
  const of = (column: Float32Array, layer: number) => column[place * reasons.layers + layer];
  const all = [...Array(reasons.layers).keys()];
  const sum = (layer: number) => through.slice(layer * reasons.heads, (layer + 1) * reasons.heads).reduce((total, x) => total + x, 0);
  const passed = all.filter((layer) => of(reasons.past, layer) || sum(layer));
  const later = passed.some((layer) => Math.abs(of(reasons.later, layer)) > 1e-6 * Math.abs(weight));
  const rows = passed.map((layer) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, String(layer)),
      element("td", {}, percent(of(reasons.past, layer) / weight, 0)),
      later && element("td", {}, percent(of(reasons.later, layer) / weight, 0)),
      element("td", {}, percent(sum(layer) / weight, 0)),
      element("td", { class: "token" }, named(through.slice(layer * reasons.heads, (layer + 1) * reasons.heads), weight)),
    ),
  );
  const names = ["layer", "past", ...(later ? ["later"] : []), "heads", "which"];
  return element(
    "table",
    { class: "split" },
    element("thead", {}, element("tr", {}, ...names.map((each) => element("th", { scope: "col" }, each)))),
    element("tbody", {}, ...rows),
  );
}

/** A layer's largest heads in words. */
function named(values: number[], weight: number): string {
  const order = [...values.keys()].filter((head) => Math.abs(values[head] / weight) >= NAMED).sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
  const said = order.slice(0, MOST_NAMED).map((head) => `h${head} ${percent(values[head] / weight, 0)}`);
  return order.length > MOST_NAMED ? `${said.join(", ")}, …` : said.join(", ");
}

/** Why a head's query looks at its key: pairs of nodes, then single nodes of either side. */
function reason(graph: AttributionGraph, state: GraphState, found: QueryKey, actions: Actions): Child[] {
  const sink = found.sink ? ` A sink gives ${signedAmount(found.sink)} of it.` : "";
  const said = `a${found.layer}.h${found.head} at ${at(graph, found.query)} looks at ${at(graph, found.key)} with ${percent(found.attention)}. Its score there stands ${amount(found.margin)} above the other keys; the contrast is ${signedAmount(found.value)}.${sink}`;
  return [element("p", { class: "fact" }, said), ...termLists(graph, state, found.pairs, found.query_side, found.key_side, actions)];
}

/** Terms of an attention score: pairs of nodes, then single nodes of either side. */
function termLists(graph: AttributionGraph, state: GraphState, pairs: Term[], queries: Term[], keys: Term[], actions: Actions): Child[] {
  const most = largestOf([pairs, queries, keys].flat().map((term) => Math.abs(term.weight)), 1e-30);
  const list = (terms: Term[], words: (term: Term) => string, node: (term: Term) => string, under?: (term: Term) => string) =>
    rowsOf(terms.length, (i) => row({ words: words(terms[i]), numbers: signedAmount(terms[i].weight), share: terms[i].weight / most, under: under ? under(terms[i]) : null, choose: () => chooseNode(graph, node(terms[i]), actions) }));
  const named = (id: string) => nodeWords(graph, state, id);
  return [
    element("p", { class: "quiet" }, "Pairs, the query's node by the key's:"),
    list(pairs, (term) => named(term.query), (term) => term.key, (term) => `by the key's ${named(term.key)}`),
    element("details", {}, element("summary", {}, "Through the query alone, through the keys alone"),
      list(queries, (term) => `query: ${named(term.query)}`, (term) => term.query),
      list(keys, (term) => `key: ${named(term.key)}`, (term) => term.key)),
  ];
}

/** Why an attention feature looks where it looks, where the file says it. */
export function tracingFacts(graph: AttributionGraph, state: GraphState, node: number, actions: Actions): Child[] {
  const terms = graph.parts.extras.tracing.get(node);
  if (!terms) return [];
  const of = (query: boolean, key: boolean) => terms.filter((term) => !!term.query === query && !!term.key === key);
  return [element("h3", {}, "Why it looks there"), ...termLists(graph, state, of(true, true), of(true, false), of(false, true), actions)];
}

/** A node with its label, or else its token. */
function nodeWords(graph: AttributionGraph, state: GraphState, id: string): string {
  const node = graph.node(id);
  const label = node === null ? undefined : (labelOf(state.labels, id, graph.parts.kind[node]) ?? graph.parts.labels[node]);
  if (label) return `${id} “${label}”`;
  const position = Number(id.split("@")[1] ?? NaN);
  return Number.isNaN(position) ? id : `${id} ${quote(graph.parts.tokens[position] ?? "")}`;
}

function chooseNode(graph: AttributionGraph, id: string, actions: Actions): void {
  const node = graph.node(id);
  if (node !== null) actions.choose(node);
}
