/** The panel beside the graph: a node's inputs and outputs, what is pinned, where the graph comes from. */

import { amount, arrow, count, percent, several as plural, signedAmount } from "../words";
import type { AttributionGraph, Neighbour } from "./graph";
import { besideEdge, isAmong, nodeNumbers } from "./several";
import { type Block, blocksOf, flows, suggest } from "./groups";
import { button, type Child, element, terms } from "../dom";
import { labelField } from "../labels";
import { dashboardOf, written } from "./dashboards";
import { type Actions, name } from "./names";
import { row, rowsOf } from "../rows";
import { tracingFacts } from "./edge";
import { diagram } from "./diagram";
import type { GraphState } from "./state";
import type { Scores } from "./influence";

/** A node: value, ledger, and what flows in and out. */
export function nodeFacts(
  graph: AttributionGraph,
  state: GraphState,
  shown: Uint8Array,
  share: Float32Array,
  scores: Scores | null,
  actions: Actions,
): Child[] {
  const { node } = state;
  if (node === null) return [...outputs(graph, state, shown, actions), ...(state.pinned.size ? [] : wholeGraph(graph, scores))];
  const { value, ids, extras } = graph.parts;
  const { several } = extras;
  const [into, outOf] = [graph.inputs(node, shown), graph.outputs(node, shown)].map((found) => (several ? found.filter((each) => isAmong(several, state.among, each[2])) : found));
  const pinned = state.pinned.has(node);
  const label = labelField(ids[node], state.labels, (words) => actions.label(node, words), graph.parts.labels[node]);
  const facts: [string, string][] = [
    ["id", ids[node]],
    ["where", graph.describe(node)],
    ...(Number.isNaN(value[node]) ? [] : [["value", amount(value[node])] as [string, string]]),
    ["rank", graph.isPruned(node) ? `within the first ${percent(share[node])} of all influence${shown[node] ? "" : ": not shown now"}` : "always shown"],
    ...(several ? nodeNumbers(several, node) : []),
    ...(several?.kind === "difference" ? [] : ledger(graph, node)),
    ...written(graph, node),
  ];
  return [
    element("h2", {}, name(graph, state, node), " ", button("×", () => actions.choose(null), { class: "close", "aria-label": "Choose nothing" })),
    element("p", { class: "line" }, label, button(pinned ? "Unpin" : "Pin", () => actions.pin(node), { "aria-pressed": String(pinned) })),
    terms(facts),
    ...dashboardOf(graph, node),
    element("h3", {}, `Inputs (${count(into.length)})`),
    edges(graph, state, into, graph.inputSize[node], actions),
    ...tracingFacts(graph, state, node, actions),
    element("h3", {}, `Outputs (${count(outOf.length)})`),
    edges(graph, state, outOf, null, actions),
  ];
}

/** What a target's edges add up to, and what they leave out. */
function ledger(graph: AttributionGraph, node: number): [string, string][] {
  const { offsets, weight, ledger: found, value } = graph.parts;
  if (offsets[node] === offsets[node + 1]) return [];
  let sum = 0;
  for (let e = offsets[node]; e < offsets[node + 1]; e++) sum += weight[e];
  if (!found) return [["inputs add up to", amount(sum)]];
  return [
    ["ledger", `${amount(sum)} in edges + ${amount(found.outside[node])} left out = ${amount(value[node] - found.residual[node])}`],
    ["residual", `${amount(found.residual[node])}, ${amount(Math.abs(found.residual[node]) / (found.size[node] || 1))} of its edges' sizes`],
  ];
}

function outputs(graph: AttributionGraph, state: GraphState, shown: Uint8Array, actions: Actions): Child[] {
  const roots = [...graph.parts.rootWeight.keys()].filter((node) => graph.parts.rootWeight[node] > 0 && shown[node]);
  roots.sort((a, b) => graph.parts.rootWeight[b] - graph.parts.rootWeight[a]);
  const said = (node: number) => ({ words: name(graph, state, node), numbers: amount(graph.parts.rootWeight[node]), share: null });
  return [
    element("h2", {}, "What is explained"),
    rowsOf(roots.length, (i) => row({ ...said(roots[i]), choose: () => actions.choose(roots[i]) })),
    element("p", { class: "fact" }, "Click a node to see what flows into it and out of it; Shift and a click pins it."),
    element("h3", {}, "Prompt"),
    element("p", { class: "prompt" }, graph.parts.tokens.join("")),
  ];
}

function edges(graph: AttributionGraph, state: GraphState, found: Neighbour[], size: number | null, actions: Actions): HTMLElement {
  const { several, reasons } = graph.parts.extras;
  const most = Math.abs(found[0]?.[1] ?? 1) || 1;
  return rowsOf(found.length, (i) => {
    const [other, weight, edge] = found[i];
    return row({
      words: `${state.pinned.has(other) ? "● " : ""}${name(graph, state, other)}`,
      numbers: size === null ? signedAmount(weight) : `${signedAmount(weight)} (${percent(weight / (size || 1), 0)})`,
      share: weight / most,
      under: several && besideEdge(several, edge),
      why: reasons?.place.has(edge) ? () => actions.chooseEdge(edge) : null,
      choose: () => actions.choose(other),
    });
  });
}

/** The pinned sub-graph: its scores, a diagram, its blocks and the edges between them. */
export function pinnedFacts(graph: AttributionGraph, state: GraphState, scores: Scores | null, draft: Draft, actions: Actions): Child[] {
  if (!state.pinned.size) {
    return [
      element("h2", {}, "Nothing is pinned"),
      element("p", {}, "Pin nodes to make a small graph of them: with Shift and a click, or Enter."),
      button("Pin the inputs of what is chosen", () => state.node !== null && actions.pinAll(graph.inputs(state.node, allOf(graph)).slice(0, 10).map((each) => each[0]))),
    ];
  }
  const blocks = blocksOf(state.pinned, state.groups);
  const { several } = graph.parts.extras;
  const sums = flows(graph, blocks, (edge) => !several || isAmong(several, state.among, edge));
  const words = (block: Block) => block.label || name(graph, state, block.nodes[0]);
  const suggested = suggest(graph, ungrouped(state));
  return [
    element("h2", {}, plural(state.pinned.size, "pinned node")),
    hasScores(graph) && scoreTable(scores),
    hasScores(graph) && leftOut(graph),
    diagram(graph, blocks, sums, words, (node) => actions.choose(node)),
    element("h3", {}, "Pinned"),
    grouping(graph, state, draft, actions),
    suggested.length > 0 && element("h3", {}, "Alike in what they read and write"),
    ...suggested.map((nodes) =>
      element(
        "p",
        { class: "line" },
        element("span", { class: "name" }, nodes.map((node) => name(graph, state, node)).join(", ")),
        button("Group", () => actions.group(name(graph, state, nodes[0]), nodes)),
      ),
    ),
    element("h3", {}, "Edges between them, summed"),
    rowsOf(sums.length, (i) => {
      const { from, to, weight, share } = sums[i];
      return row({
        words: arrow(words(blocks[from]), words(blocks[to])),
        numbers: `${signedAmount(weight)} (${percent(share, 0)})`,
        share: weight / (Math.abs(sums[0].weight) || 1),
        choose: () => actions.choose(blocks[to].nodes[0]),
      });
    }),
    button("Unpin all", () => actions.unpinAll()),
  ];
}

function ungrouped(state: GraphState): Set<number> {
  const grouped = new Set(state.groups.flatMap((group) => group[1]));
  return new Set([...state.pinned].filter((node) => !grouped.has(node)));
}

function wholeGraph(graph: AttributionGraph, scores: Scores | null): Child[] {
  const outside = leftOut(graph);
  if (outside) return [scoreTable(scores, "What is kept of the graph"), outside];
  const without = !graph.parts.kind.some((_, node) => graph.isError(node));
  const note = "It has no errors, so both are 1. Pin some nodes: all others then count as errors.";
  return [scoreTable(scores, "The whole graph"), without && element("p", { class: "fact" }, note)];
}

/** That scores are of the graph without what was left out of it, as pruning does; nothing where nothing was. */
function leftOut(graph: AttributionGraph): Child {
  const outside = outsideShare(graph);
  if (!outside) return null;
  return element("p", { class: "fact" }, `${percent(outside)} of all edges' sizes were left out of this graph, by pruning or as too small, and count for nothing here. \`edgewise attribute\` says what a pruned graph scores where the nodes that were removed count as errors.`);
}

/** How much of the sizes of all edges the graph leaves out. */
function outsideShare(graph: AttributionGraph): number {
  const { ledger } = graph.parts;
  if (!ledger) return 0;
  const sum = (values: Float32Array) => values.reduce((total, x) => total + x, 0);
  return sum(ledger.outsideSize) / (sum(ledger.size) || 1);
}

/** Whether replacement and completeness mean something: of weights, not of influence or of differences. */
function hasScores(graph: AttributionGraph): boolean {
  const { several } = graph.parts.extras;
  return !several || (several.kind === "merged" && !several.flows);
}

function scoreTable(scores: Scores | null, heading?: string): HTMLElement {
  const said = (value: number | undefined) => (value === undefined ? "…" : percent(value));
  const list = element(
    "dl",
    { class: "scores" },
    element("dt", { title: "Of the paths that end in the outputs, how many begin at a token rather than at an error or at what is not pinned." }, "replacement"),
    element("dd", {}, said(scores?.replacement)),
    element("dt", { title: "Of what the pinned nodes and outputs read, how much comes from neither errors nor what is not pinned. Tokens and errors, which read nothing, count as whole." }, "completeness"),
    element("dd", {}, said(scores?.completeness)),
  );
  return heading ? element("div", {}, element("h3", {}, heading), list) : list;
}

/** A group that is being made: it outlives the panel, which every change fills anew. */
export interface Draft {
  label: string;
  ticked: Set<number>;
}

/** The pinned nodes with boxes to tick, and a label to group them under. */
function grouping(graph: AttributionGraph, state: GraphState, draft: Draft, actions: Actions): HTMLElement {
  const free = ungrouped(state);
  for (const node of draft.ticked) if (!free.has(node)) draft.ticked.delete(node);
  const label = element("input", { type: "text", placeholder: "name of a group", "aria-label": "Name of a group", maxlength: 80, value: draft.label });
  label.addEventListener("input", () => (draft.label = label.value));
  const rows = [...free].map((node) => {
    const box = element("input", { type: "checkbox", "aria-label": `Take ${graph.parts.ids[node]} into a group`, checked: draft.ticked.has(node) });
    box.addEventListener("change", () => (box.checked ? draft.ticked.add(node) : draft.ticked.delete(node)));
    return element(
      "li",
      { class: "line" },
      box,
      button(name(graph, state, node), () => actions.choose(node), { class: "link name" }),
      button("Unpin", () => actions.pin(node), { "aria-label": `Unpin ${graph.parts.ids[node]}` }),
    );
  });
  const groups = state.groups.map(([words, nodes], index) =>
    element(
      "li",
      { class: "line" },
      element("b", { class: "name" }, `${words} (${nodes.length})`),
      button("Ungroup", () => actions.ungroup(index), { "aria-label": `Ungroup ${words}` }),
    ),
  );
  const make = button("Group those ticked", () => {
    const chosen = [...draft.ticked].filter((node) => free.has(node));
    if (!chosen.length) return;
    const words = draft.label.trim() || "group";
    draft.label = "";
    draft.ticked.clear();
    actions.group(words, chosen);
  });
  return element("div", {}, element("ul", { class: "rows" }, ...groups, ...rows), element("p", { class: "line" }, label, make));
}

function allOf(graph: AttributionGraph): Uint8Array {
  return new Uint8Array(graph.n).fill(1);
}

export function about(graph: AttributionGraph): Child[] {
  const rows: [string, string][] = [
    ["size", `${count(graph.n)} nodes, ${count(graph.nEdges)} edges, ${count(graph.parts.tokens.length)} tokens`],
    ...(graph.parts.ledger ? [worst(graph)] : []),
    ...graph.parts.about,
  ];
  return [
    element("h2", {}, graph.parts.title),
    ...graph.parts.notes.map((note) => element("p", { class: "fact" }, note)),
    terms(rows),
    element("p", { class: "prompt" }, graph.parts.tokens.join("")),
  ];
}

function worst(graph: AttributionGraph): [string, string] {
  const { residual, size } = graph.parts.ledger!;
  let most = 0;
  for (let i = 0; i < graph.n; i++) if (size[i]) most = Math.max(most, Math.abs(residual[i]) / size[i]);
  return ["ledger", `largest residual ${amount(most)} of a target's edges; ${percent(outsideShare(graph))} of all edges' sizes left out`];
}
