/** What the panels of nodes and edges share: what a click does, and what nodes are called. */

import { type AttributionGraph, NEURON, isInnerKind } from "./graph";
import type { GraphState } from "./state";
import type { Labels } from "../labels";

export interface Actions {
  choose(node: number | null): void;
  chooseEdge(edge: number): void;
  pin(node: number): void;
  pinAll(nodes: number[]): void;
  unpinAll(): void;
  group(label: string, nodes: number[]): void;
  ungroup(index: number): void;
  label(node: number, words: string): void;
}

export function name(graph: AttributionGraph, state: GraphState, node: number): string {
  return labelOf(state.labels, graph.parts.ids[node], graph.parts.kind[node]) ?? graph.name(node);
}

/** The words for a node: its own, or its feature's wherever it stands, such as `m12.f410`. */
export function labelOf(labels: Labels, id: string, kind: number): string | undefined {
  return labels.get(id) ?? (labels.size && isInnerKind(kind) ? labels.get(featureOf(id, kind)) : undefined);
}

/** The feature or neuron of `m12.f410@7`, or of another tool's `12_410_7`. */
function featureOf(id: string, kind: number): string {
  const other = /^(\d+)_(\d+)_\d+$/.exec(id);
  return other ? `m${other[1]}.${kind === NEURON ? "n" : "f"}${other[2]}` : id.slice(0, Math.max(id.indexOf("@"), 0));
}
