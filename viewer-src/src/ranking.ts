/** One run's circuits of every size: edges in the order of their scores. */

import type { CircuitHeader, PageData } from "./data";
import type { Graph } from "./graph";

const LOWEST = 0xff800000; // the key of −∞, with which an edge without a score ties

/** A circuit of one size. */
export interface Circuit {
  /** How many edges were asked for; null for the circuit as it was found, where that is no size of its ranking. */
  nominal: number | null;
  /** The edges that can carry signal, best first. */
  edges: Uint32Array;
  /** Whether each edge is one of these. */
  has: Uint8Array;
}

export class Ranking {
  readonly scores: Float32Array | null;
  /** The edges, best first; null without scores. */
  readonly order: Uint32Array | null;
  /** Each edge's place in `order`, from 0. */
  readonly rank: Uint32Array | null = null;
  /** The circuit as it was found. */
  readonly found: Circuit;
  /** The largest size whose actual edges are those of the circuit that was found; null if there is none. */
  readonly foundAt: number | null = null;
  private last: Circuit | null = null;

  constructor(
    readonly header: CircuitHeader,
    readonly graph: Graph,
    page: PageData,
  ) {
    const at = (name: string) => `${header.arrays}/${name}`;
    this.scores = page.has(at("scores")) ? page.array(at("scores"), "f4") : null;
    this.order = page.has(at("order"))
      ? page.array(at("order"), "u4")
      : this.scores && orderOf(this.scores, header.absolute);
    if (this.order) {
      this.rank = new Uint32Array(this.order.length);
      this.order.forEach((edge, place) => (this.rank![edge] = place));
    }
    this.found = this.circuitOf(unpack(page.array(at("kept"), "u1"), graph.nEdges), null);
    if (this.order) {
      const size = this.largest(this.found.edges.length);
      if (same(this.at(size).has, this.found.has)) this.foundAt = size;
    }
  }

  /** The circuit of a nominal size; as it was found where none is given or there are no scores. */
  at(nominal: number | null): Circuit {
    if (nominal === null || !this.order) return this.found;
    if (this.last?.nominal === nominal) return this.last;
    const kept = new Uint8Array(this.graph.nEdges);
    for (let i = 0; i < nominal; i++) kept[this.order[i]] = 1;
    this.last = this.circuitOf(kept, nominal);
    return this.last;
  }

  /** Whether a circuit of this run is the one that was found: of sizes of one ranking, those with as many edges are one. */
  isFound(circuit: Circuit): boolean {
    return circuit === this.found || (this.foundAt !== null && circuit.edges.length === this.found.edges.length);
  }

  /** The sizes of the curve, the largest first, but for that of the circuit as found if it is one of them. */
  measuredSizes(): number[] {
    const sizes = new Set(this.header.curve?.points.map((point) => point[1]));
    if (this.foundAt !== null) sizes.delete(this.found.edges.length);
    return [...sizes].sort((a, b) => b - a);
  }

  /** The largest nominal size with at most this many actual edges (actual edges grow with the nominal size). */
  largest(actual: number): number {
    let low = 0;
    let high = this.graph.nEdges;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.actual(middle) <= actual) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The smallest nominal size at which an edge can carry signal; once it can, it can at every larger size. */
  smallestWith(edge: number): number {
    let low = this.rank![edge] + 1;
    let high = this.graph.nEdges; // the whole graph, where every edge can
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (this.alive(middle)[edge]) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  private actual(nominal: number): number {
    return total(this.alive(nominal));
  }

  /** Which of the first edges can carry signal. */
  private alive(nominal: number): Uint8Array {
    const kept = new Uint8Array(this.graph.nEdges);
    for (let i = 0; i < nominal; i++) kept[this.order![i]] = 1;
    return this.graph.prune(kept, this.header.interchange);
  }

  private circuitOf(kept: Uint8Array, nominal: number | null): Circuit {
    const has = this.graph.prune(kept, this.header.interchange);
    const edges = new Uint32Array(total(has));
    let n = 0;
    if (this.order) {
      for (const edge of this.order) if (has[edge]) edges[n++] = edge;
    } else {
      for (let edge = 0; edge < has.length; edge++) if (has[edge]) edges[n++] = edge;
    }
    return { nominal, edges, has };
  }
}

/** The edges by falling score, equal ones by their number; an edge without a score comes last. */
function orderOf(scores: Float32Array, absolute: boolean): Uint32Array {
  const keys = new Uint32Array(scores.length);
  const bits = new Uint32Array(1);
  const value = new Float32Array(bits.buffer);
  for (let i = 0; i < scores.length; i++) {
    value[0] = (absolute ? Math.abs(scores[i]) : scores[i]) + 0; // no −0
    // The bits of floats as numbers that fall where the floats rise.
    keys[i] = Number.isNaN(value[0]) ? LOWEST : bits[0] & 0x80000000 ? bits[0] : ~bits[0] & 0x7fffffff;
  }
  return sortedBy(keys);
}

/** The places of the keys in rising order, equal ones in order of place: a radix sort, 16 bits at a time. */
function sortedBy(keys: Uint32Array): Uint32Array {
  let from = Uint32Array.from(keys, (_, i) => i);
  let to = new Uint32Array(keys.length);
  for (const shift of [0, 16]) {
    const starts = new Uint32Array(0x10001);
    for (const key of keys) starts[((key >>> shift) & 0xffff) + 1]++;
    for (let i = 1; i <= 0x10000; i++) starts[i] += starts[i - 1];
    for (const i of from) to[starts[(keys[i] >>> shift) & 0xffff]++] = i;
    [from, to] = [to, from];
  }
  return from;
}

function unpack(bits: Uint8Array, n: number): Uint8Array {
  const found = new Uint8Array(n);
  for (let i = 0; i < n; i++) found[i] = (bits[i >> 3] >> (i & 7)) & 1;
  return found;
}

function total(flags: Uint8Array): number {
  let sum = 0;
  for (const flag of flags) sum += flag;
  return sum;
}

function same(one: Uint8Array, other: Uint8Array): boolean {
  return one.every((flag, i) => flag === other[i]);
}
