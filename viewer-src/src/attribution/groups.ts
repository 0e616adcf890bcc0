/** Pinned nodes and supernodes: edges summed between them, and suggestions which to put together. */

import type { AttributionGraph } from "./graph";
import { smallestOf } from "../words";

/** A supernode, or one pinned node alone. */
export interface Block {
  /** A person's words; empty for a node alone. */
  label: string;
  nodes: number[];
}

export interface Flow {
  from: number;
  to: number;
  weight: number;
  /** The weight as a share of the sizes of all inputs of the target's nodes. */
  share: number;
}

export type Group = readonly [label: string, nodes: readonly number[]];

/** Supernodes first, then the pinned nodes that are in none. */
export function blocksOf(pinned: ReadonlySet<number>, groups: readonly Group[]): Block[] {
  const grouped = new Set(groups.flatMap((group) => group[1]));
  return [
    ...groups.map(([label, nodes]) => ({ label, nodes: [...nodes] })),
    ...[...pinned].filter((node) => !grouped.has(node)).map((node) => ({ label: "", nodes: [node] })),
  ];
}

/** The edges between blocks, summed, the largest first: those asked for, by number. Edges within a block are left out. */
export function flows(graph: AttributionGraph, blocks: readonly Block[], isAmong: (edge: number) => boolean): Flow[] {
  const { offsets, sources, weight } = graph.parts;
  const blockOf = new Map<number, number>();
  blocks.forEach((block, b) => block.nodes.forEach((node) => blockOf.set(node, b)));
  const found: Flow[] = [];
  blocks.forEach((block, to) => {
    const sums = new Map<number, number>();
    let size = 0;
    for (const target of block.nodes) {
      size += graph.inputSize[target];
      for (let e = offsets[target]; e < offsets[target + 1]; e++) {
        const from = blockOf.get(sources[e]);
        if (from !== undefined && from !== to && isAmong(e)) sums.set(from, (sums.get(from) ?? 0) + weight[e]);
      }
    }
    for (const [from, sum] of sums) found.push({ from, to, weight: sum, share: size ? sum / size : 0 });
  });
  return found.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
}

const MOST_SUGGESTED = 200; // pinned nodes: the comparison is of each with each
const ALIKE = 0.5; // least cosine between any two of a group

/**
 * Groups of pinned features whose edges in and out are alike: cosine of their signed weights, complete-link clustering,
 * so that any two of a group are alike.
 */
export function suggest(graph: AttributionGraph, pinned: ReadonlySet<number>): number[][] {
  const nodes = [...pinned].filter((node) => graph.isInner(node)).slice(0, MOST_SUGGESTED);
  const profiles = nodes.map((node) => profile(graph, node));
  let clusters = nodes.map((_, i) => [i]);
  const alike = nodes.map((_, i) => nodes.map((_, j) => cosine(profiles[i], profiles[j])));
  const link = (a: number[], b: number[]) => smallestOf(a.flatMap((i) => b.map((j) => alike[i][j])), Infinity);
  for (;;) {
    let best: [number[], number[]] | null = null;
    let most = ALIKE;
    for (const a of clusters) {
      for (const b of clusters) {
        if (a[0] < b[0] && link(a, b) > most) [best, most] = [[a, b], link(a, b)];
      }
    }
    if (!best) break;
    const [a, b] = best;
    clusters = [...clusters.filter((each) => each !== a && each !== b), [...a, ...b].sort((i, j) => i - j)];
  }
  return clusters.filter((each) => each.length > 1).map((each) => each.map((i) => nodes[i]));
}

/** A node's edges as a vector: what it reads, and what it writes to. */
function profile(graph: AttributionGraph, node: number): Map<number, number> {
  const { offsets, sources, weight } = graph.parts;
  const found = new Map<number, number>();
  for (let e = offsets[node]; e < offsets[node + 1]; e++) found.set(sources[e], weight[e] / (graph.inputSize[node] || 1));
  let out = 0;
  for (let i = graph.targetStart[node]; i < graph.targetStart[node + 1]; i++) out += Math.abs(weight[graph.targetEdge[i]]);
  for (let i = graph.targetStart[node]; i < graph.targetStart[node + 1]; i++) {
    found.set(graph.n + graph.targets[i], weight[graph.targetEdge[i]] / (out || 1));
  }
  return found;
}

function cosine(a: ReadonlyMap<number, number>, b: ReadonlyMap<number, number>): number {
  let dot = 0;
  for (const [key, value] of a) dot += value * (b.get(key) ?? 0);
  const size = (m: ReadonlyMap<number, number>) => Math.sqrt([...m.values()].reduce((sum, x) => sum + x * x, 0));
  return dot / (size(a) * size(b) || 1);
}
