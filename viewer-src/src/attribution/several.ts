/** Graphs of several prompts and differences of two: lists of edges and nodes, with what is known of each number. */

import { amount, arrow, count, largestOf, percent, several as plural, signedAmount } from "../words";
import type { AttributionGraph, Several } from "./graph";
import { type Child, element } from "../dom";
import { row, rowsOf } from "../rows";
import type { Actions } from "./names";

export const AMONG = ["all", "half", "every", "sure", "first", "second"] as const;
/** Which edges are listed and drawn. */
export type Among = (typeof AMONG)[number];

/** What may be chosen of each kind of graph, in words. */
export function choices(several: Several): [Among, string][] {
  const sure: [Among, string][] = several.prompts.every((n) => n > 1) ? [["sure", "whose interval has no 0"]] : [];
  if (several.kind === "difference") {
    const [a, b] = several.names;
    return [["all", "all"], ["first", `larger in A (${a})`], ["second", `larger in B (${b})`], ...sure];
  }
  return [["all", "all"], ["half", "of half of the prompts or more"], ["every", "of every prompt"], ...sure];
}

/** Whether an edge is one of those asked for. */
export function isAmong(several: Several, among: Among, edge: number): boolean {
  const { first, second, share, low, high } = several.edges;
  if (among === "sure") return Number.isNaN(low[edge]) || low[edge] > 0 || high[edge] < 0; // of one prompt it is no choice
  if (among === "first") return !first || Math.abs(first[edge]) > Math.abs(second[edge]);
  if (among === "second") return !first || Math.abs(second[edge]) > Math.abs(first[edge]);
  return !share || share[edge] >= (among === "every" ? 1 : among === "half" ? 0.5 : 0);
}

/** What is known of an edge beyond its number, in a line. */
export function besideEdge(several: Several, edge: number): string {
  const { first, second, low, high, share, agreement } = several.edges;
  const interval = Number.isNaN(low[edge]) ? "" : `95 %: ${signedAmount(low[edge])} to ${signedAmount(high[edge])}`;
  if (several.kind === "difference") {
    const said = [`A ${signedAmount(first[edge])}`, `B ${signedAmount(second[edge])}`, interval, sideOf(first[edge], second[edge])];
    return said.filter(Boolean).join(" · ");
  }
  const said = [interval, `in ${ofPrompts(share[edge], several)}`, `same sign in ${percent(agreement[edge], 0)}`];
  return said.filter(Boolean).join(" · ");
}

function sideOf(first: number, second: number): string {
  if (Math.abs(first) === Math.abs(second)) return "as large in both";
  if (!second) return "only in A";
  if (!first) return "only in B";
  return Math.abs(first) > Math.abs(second) ? "larger in A" : "larger in B";
}

function ofPrompts(share: number, several: Several): string {
  return `${count(Math.round(share * several.prompts[0]))} of ${plural(several.prompts[0], "prompt")}`;
}

/** What is known of a node's influence, as facts. */
export function nodeNumbers(several: Several, node: number): [string, string][] {
  const { first, second, low, high, share } = several.nodes;
  if (several.kind === "difference") {
    return [["influence", `A ${amount(first[node])}, B ${amount(second[node])}: ${signedAmount(first[node] - second[node])}`]];
  }
  const interval = Number.isNaN(low[node]) ? "" : ` (95 %: ${amount(low[node])} to ${amount(high[node])})`;
  return [["influence", amount(several.influence[node]) + interval], ["in", ofPrompts(share[node], several)]];
}

/**
 * How much each edge matters: its part of all that flows into its target, times the target's influence. Weights into
 * different targets differ in unit; of a difference, a target's flow is what either side has. Influence has one unit.
 */
export function importance(graph: AttributionGraph, several: Several): Float64Array {
  const { offsets, weight, rootWeight } = graph.parts;
  const found = Float64Array.from(weight, Math.abs);
  if (several.flows) return found;
  const { first, second } = several.edges;
  for (let target = 0; target < graph.n; target++) {
    let size = 0;
    for (let e = offsets[target]; e < offsets[target + 1]; e++) size += first ? Math.max(Math.abs(first[e]), Math.abs(second[e])) : found[e];
    const mass = (several.influence[target] + rootWeight[target]) / (size || 1);
    for (let e = offsets[target]; e < offsets[target + 1]; e++) found[e] *= mass;
  }
  return found;
}

/** The lists that stand in the panel while nothing is chosen; `matters` is each edge's importance. */
export function lists(
  several: Several,
  matters: Float64Array,
  { edges, nodes }: { edges: number[]; nodes: number[] },
  graph: AttributionGraph,
  name: (node: number) => string,
  actions: Actions,
): Child[] {
  const { sources, weight } = graph.parts;
  const most = matters[edges[0]] || 1;
  const ends = (edge: number) => arrow(name(sources[edge]), name(graph.targetOf(edge)));
  const isDifference = several.kind === "difference";
  const size = (node: number) => (isDifference ? several.nodes.first[node] - several.nodes.second[node] : several.influence[node]);
  const largest = largestOf(nodes.map((node) => Math.abs(size(node))), 1e-30);
  const what = several.flows ? "influence along it" : "weight";
  return [
    element("p", { class: "fact" }, isDifference ? differenceWords(several, what) : `Means over ${plural(several.prompts[0], "prompt")}, of each edge's ${what}; a prompt without the edge counts as 0. ${order(several)}`),
    element("h2", {}, isDifference ? "Edges that differ most" : "Edges"),
    rowsOf(edges.length, (i) => row({ words: ends(edges[i]), numbers: signedAmount(weight[edges[i]]), share: (Math.sign(weight[edges[i]]) * matters[edges[i]]) / most, under: besideEdge(several, edges[i]), choose: () => actions.chooseEdge(edges[i]) })),
    element("h2", {}, isDifference ? "Nodes whose influence differs most" : "Nodes"),
    rowsOf(nodes.length, (i) => {
      const under = nodeNumbers(several, nodes[i]).map(([key, words]) => `${key} ${words}`).join(" · ");
      return row({ words: name(nodes[i]), numbers: isDifference ? signedAmount(size(nodes[i])) : amount(size(nodes[i])), share: size(nodes[i]) / largest, under, choose: () => actions.choose(nodes[i]) });
    }),
  ];
}

function differenceWords(several: Several, what: string): string {
  const [[a, b], [first, second]] = [several.names, several.prompts.map((n) => plural(n, "prompt"))];
  return `A is ${a} (${first}), B is ${b} (${second}). Numbers are A − B, of each edge's ${what}; an edge that one of them lacks counts as 0 there. ${order(several)}`;
}

function order(several: Several): string {
  return several.flows ? "" : "Bars and order: by the edge's share of what flows into its target, times the target's influence.";
}

/** Nodes by what their influence says: the largest, or what differs most. */
export function rankedNodes(several: Several, isShown: (node: number) => boolean): number[] {
  const { first, second } = several.nodes;
  const size = (node: number) => (first ? Math.abs(first[node] - second[node]) : several.influence[node]);
  return [...several.influence.keys()].filter(isShown).sort((a, b) => size(b) - size(a));
}
