/** What the panels of nodes and edges share: what a click does, and what nodes are called. */

import type { AttributionGraph } from "./graph";
import type { GraphState } from "./state";

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
  return state.labels.get(graph.parts.ids[node]) ?? graph.name(node);
}
