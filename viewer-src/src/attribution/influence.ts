/**
 * Influence, and what rests on it, by one pass over the edges each (after Ameisen et al. 2025, "Circuit Tracing").
 *
 * A target's edges are divided by the sum of their sizes; the influence of a node is how much of the roots it reaches
 * through all paths of these. Biases, which other tools do not have, are left out.
 */

import { BIAS, type Edges, ERROR, isInnerKind, POSITION, TOKEN } from "./graph";

export interface Structure extends Edges {
  kind: Uint8Array;
  layer: Int16Array;
  position: Int32Array;
  rootWeight: Float64Array;
  nTokens: number;
}

export interface Scores {
  /** Influence of tokens / influence of tokens and errors. */
  replacement: number;
  /** The share of the nodes' inputs that are no errors, weighted by influence; what reads nothing counts as whole. */
  completeness: number;
}

/** The nodes, sources before targets. Raises an error where edges go in a circle. */
export function order(edges: Edges): Uint32Array {
  const { offsets, sources } = edges;
  const n = offsets.length - 1;
  // From the last targets backwards: a node comes once everything that reads it has come.
  const readers = new Uint32Array(n);
  for (const source of sources) readers[source]++;
  const found = new Uint32Array(n);
  let end = n;
  for (let node = n - 1; node >= 0; node--) if (!readers[node]) found[--end] = node;
  for (let place = n - 1; place >= end; place--) {
    const node = found[place];
    for (let e = offsets[node]; e < offsets[node + 1]; e++) if (!--readers[sources[e]]) found[--end] = sources[e];
  }
  if (end > 0) throw new Error("its edges go in a circle, which no attribution graph has");
  return found;
}

/** The influence of every node on the roots. */
export function influence(s: Structure, sorted: Uint32Array): Float64Array {
  const total = new Float64Array(sorted.length);
  for (let i = sorted.length - 1; i >= 0; i--) {
    const target = sorted[i];
    const mass = total[target] + s.rootWeight[target];
    if (!mass) continue;
    let sum = 0;
    for (let e = s.offsets[target]; e < s.offsets[target + 1]; e++) {
      if (s.kind[s.sources[e]] !== BIAS) sum += Math.abs(s.weight[e]);
    }
    if (!sum) continue;
    for (let e = s.offsets[target]; e < s.offsets[target + 1]; e++) {
      if (s.kind[s.sources[e]] !== BIAS) total[s.sources[e]] += (mass * Math.abs(s.weight[e])) / sum;
    }
  }
  return total;
}

/** For each node, the share of all influence that it and the nodes above it have: low is important. */
export function shares(found: Float64Array): Float32Array {
  const byInfluence = Array.from(found.keys()).sort((a, b) => found[b] - found[a]);
  const all = found.reduce((sum, x) => sum + x, 0) || 1;
  const share = new Float32Array(found.length);
  let sum = 0;
  for (const node of byInfluence) share[node] = (sum += found[node]) / all;
  return share;
}

/**
 * Replacement and completeness of the graph in which only some features are kept: what the others give is counted as
 * their layer's and position's error's (Lindsey et al. 2025, "The Circuits Research Landscape", appendix C).
 */
export function scores(s: Structure, sorted: Uint32Array, kept: Uint8Array): Scores {
  const total = new Float64Array(sorted.length);
  const places = new Float64Array((s.layer.reduce((a, b) => Math.max(a, b), 0) + 2) * (s.nTokens + 1));
  const place = (node: number) => (s.layer[node] + 1) * (s.nTokens + 1) + s.position[node] + 1;
  const isError = (node: number) =>
    s.kind[node] === ERROR || (isInnerKind(s.kind[node]) && !kept[node]);
  let [tokens, errors, complete, whole] = [0, 0, 0, 0];
  for (let i = sorted.length - 1; i >= 0; i--) {
    const target = sorted[i];
    const mass = total[target] + s.rootWeight[target];
    if (!mass || isError(target)) continue;
    let [plain, wrong] = [0, 0];
    const touched: number[] = [];
    for (let e = s.offsets[target]; e < s.offsets[target + 1]; e++) {
      const source = s.sources[e];
      if (s.kind[source] === BIAS) continue;
      if (isError(source)) {
        touched.push(place(source));
        places[place(source)] += s.weight[e];
      } else plain += Math.abs(s.weight[e]);
    }
    for (const at of touched) {
      wrong += Math.abs(places[at]);
      places[at] = 0;
    }
    const sum = plain + wrong;
    whole += mass;
    complete += sum ? (mass * plain) / sum : mass;
    if (!sum) continue;
    errors += (mass * wrong) / sum;
    for (let e = s.offsets[target]; e < s.offsets[target + 1]; e++) {
      const source = s.sources[e];
      if (s.kind[source] === BIAS || isError(source)) continue;
      const given = (mass * Math.abs(s.weight[e])) / sum;
      total[source] += given;
      if (s.kind[source] === TOKEN || s.kind[source] === POSITION) tokens += given;
    }
  }
  return {
    replacement: tokens + errors ? tokens / (tokens + errors) : 0,
    completeness: whole + errors ? (complete + errors) / (whole + errors) : 0,
  };
}

/** Of the edges between nodes that are shown, the numbers of those that carry the most influence, the strongest first. */
export function strongest(s: Structure, found: Float64Array, shown: Uint8Array, most: number): number[] {
  let best: { edge: number; carried: number }[] = [];
  let least = 0;
  const cut = () => {
    best = best.sort((a, b) => b.carried - a.carried).slice(0, most);
    if (best.length === most) least = best[most - 1].carried;
  };
  for (let target = 0; target < shown.length; target++) {
    if (!shown[target] || !(found[target] + s.rootWeight[target])) continue;
    let sum = 0;
    for (let e = s.offsets[target]; e < s.offsets[target + 1]; e++) sum += Math.abs(s.weight[e]);
    const mass = (found[target] + s.rootWeight[target]) / (sum || 1);
    for (let e = s.offsets[target]; e < s.offsets[target + 1]; e++) {
      const carried = mass * Math.abs(s.weight[e]);
      if (carried <= least || !shown[s.sources[e]]) continue;
      best.push({ edge: e, carried });
      if (best.length > 4 * most) cut();
    }
  }
  cut();
  return best.map(({ edge }) => edge);
}
