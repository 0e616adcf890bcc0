/** An attribution graph: tokens, features or neurons, errors and biases, and how much each gives to which. */

import { quote } from "../words";

type Said = [token: string, amount: number];

/** Kinds of nodes; a node's `kind` is its place in this list. */
export const KINDS = ["token", "position", "neuron", "feature", "error", "bias", "root", "nodes"] as const;
export type Kind = (typeof KINDS)[number];
export const [TOKEN, POSITION, NEURON, FEATURE, ERROR, BIAS, ROOT, NODES] = KINDS.keys();

/** Whether a node of this kind is a feature or neuron, which people pin. */
export function isInnerKind(kind: number): boolean {
  return kind === FEATURE || kind === NEURON || kind === NODES;
}

/** What each node's incoming edges leave out. */
export interface Ledger {
  residual: Float32Array;
  size: Float32Array;
  outside: Float32Array;
  outsideSize: Float32Array;
}

/** Edges by target, each target's in one stretch. */
export interface Edges {
  /** Where each target's edges begin, and at last how many there are. */
  offsets: Uint32Array;
  sources: Uint32Array;
  weight: Float32Array;
}

export interface Parts extends Edges {
  title: string;
  tokens: string[];
  kind: Uint8Array;
  /** −1 for tokens and positions; the number of layers for roots. */
  layer: Int16Array;
  /** −1 where a node has none. */
  position: Int32Array;
  /** A feature's or neuron's activation, a root's value; NaN where none is known. */
  value: Float32Array;
  ids: string[];
  labels: string[];
  /** How much each root counts; 0 for other nodes. */
  rootWeight: Float64Array;
  /** The share of all influence that a node and those above it have, where the file says it. */
  share: Float32Array | null;
  ledger: Ledger | null;
  about: [string, string][];
  notes: string[];
  extras: Extras;
}

/** What only some graphs carry. */
export interface Extras {
  several: Several | null;
  reasons: Reasons | null;
  /** By a node's id: the tokens that it speaks for, each with what it adds to their logits. */
  writes: ReadonlyMap<string, { raises: Said[]; lowers: Said[] }>;
  /** By a feature's id without its position. */
  dashboards: ReadonlyMap<string, Dashboard>;
  /** By node: why an attention feature looks where it looks, as Neuronpedia's files say it (`qk_tracing_results`). */
  tracing: ReadonlyMap<number, Term[]>;
}

export const NO_EXTRAS: Extras = { several: null, reasons: null, writes: new Map(), dashboards: new Map(), tracing: new Map() };

/** A graph of several prompts, or a difference of two graphs: the numbers beside each node's influence and edge's weight. */
export interface Several {
  kind: "merged" | "difference";
  names: string[];
  prompts: number[];
  /** Whether edges count influence and not weights. */
  flows: boolean;
  influence: Float64Array;
  nodes: Readonly<Record<string, Float32Array>>;
  edges: Readonly<Record<string, Float32Array>>;
}

/** Of some edges: what goes through each head at each layer, and past them. */
export interface Reasons {
  layers: number;
  heads: number;
  /** An edge's place in the arrays. */
  place: ReadonlyMap<number, number>;
  through: Float32Array;
  past: Float32Array;
  later: Float32Array;
  whys: (Why | null)[];
}

/** What `edgewise.attribution.why` says of an edge. */
export interface Why {
  layers: { layer: number; heads: HeadLoading[] }[];
  reasons: QueryKey[];
}

export interface HeadLoading {
  layer: number;
  head: number;
  weight: number;
  query: number;
  key: number;
  at_pair: number;
  attention: number;
}

export interface QueryKey {
  layer: number;
  head: number;
  query: number;
  key: number;
  attention: number;
  value: number;
  margin: number;
  sink: number;
  residual: number;
  pairs: Term[];
  query_side: Term[];
  key_side: Term[];
}

/** What a node, or a pair of nodes, gives to an attention score; a side that has no part in it is empty. */
export interface Term {
  query: string;
  key: string;
  weight: number;
}

export interface Dashboard {
  top: string[];
  bottom: string[];
  density: number | null;
  contexts: { tokens: string[]; values: number[]; at: number }[];
}

export class AttributionGraph {
  readonly n: number;
  readonly nEdges: number;
  /** The layer of the roots. */
  readonly top: number;
  /** Edges the other way round: by source, each with its number among the edges by target. */
  readonly targets: Uint32Array;
  readonly targetEdge: Uint32Array;
  readonly targetStart: Uint32Array;
  /** The sum of the sizes of each target's edges. */
  readonly inputSize: Float64Array;
  private numbers: Map<string, number> | null = null;

  constructor(readonly parts: Parts) {
    this.n = parts.kind.length;
    this.nEdges = parts.sources.length;
    this.top = parts.layer.reduce((most, layer) => Math.max(most, layer), 0);
    this.targetStart = new Uint32Array(this.n + 1);
    this.inputSize = new Float64Array(this.n);
    for (const source of parts.sources) this.targetStart[source + 1]++;
    for (let i = 0; i < this.n; i++) this.targetStart[i + 1] += this.targetStart[i];
    const next = this.targetStart.slice();
    this.targets = new Uint32Array(this.nEdges);
    this.targetEdge = new Uint32Array(this.nEdges);
    for (let target = 0; target < this.n; target++) {
      for (let e = parts.offsets[target]; e < parts.offsets[target + 1]; e++) {
        const place = next[parts.sources[e]]++;
        this.targets[place] = target;
        this.targetEdge[place] = e;
        this.inputSize[target] += Math.abs(parts.weight[e]);
      }
    }
  }

  /** Features and neurons: what people pin. */
  isInner(node: number): boolean {
    return isInnerKind(this.parts.kind[node]);
  }

  isError(node: number): boolean {
    return this.parts.kind[node] === ERROR;
  }

  /** Whether pruning may take a node away. */
  isPruned(node: number): boolean {
    return this.isInner(node) || this.isError(node);
  }

  name(node: number): string {
    return this.parts.labels[node] || this.parts.ids[node];
  }

  /** Where a node stands, in words. */
  describe(node: number): string {
    const { kind, layer, position, tokens } = this.parts;
    const where = kind[node] === ROOT || layer[node] < 0 ? "" : `, layer ${layer[node]}`;
    const token = tokens[position[node]] ?? "";
    const at = position[node] < 0 ? "all tokens" : this.parts.extras.several ? `at ${token}` : `token ${position[node]}, ${quote(token)}`;
    return `${KINDS[kind[node]]}${where}, ${at}`;
  }

  /** An edge's number; null where there is none. */
  edge(source: number, target: number): number | null {
    const { offsets, sources } = this.parts;
    for (let e = offsets[target]; e < offsets[target + 1]; e++) if (sources[e] === source) return e;
    return null;
  }

  targetOf(edge: number): number {
    const { offsets } = this.parts;
    let [low, high] = [0, this.n - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (offsets[middle + 1] > edge) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** A node's number by its id; of several with one id the first, to which links go too. */
  node(id: string): number | null {
    this.numbers ??= new Map(this.parts.ids.map((each, i) => [each, i] as const).reverse());
    return this.numbers.get(id) ?? null;
  }

  /** A target's sources, what each gives, and which edge that is, the largest first; only those shown. */
  inputs(node: number, shown: Uint8Array): Neighbour[] {
    const { offsets, sources, weight } = this.parts;
    const found: Neighbour[] = [];
    for (let e = offsets[node]; e < offsets[node + 1]; e++) if (shown[sources[e]]) found.push([sources[e], weight[e], e]);
    return found.sort(bySize);
  }

  /** A source's targets and what it gives to each, the largest first. */
  outputs(node: number, shown: Uint8Array): Neighbour[] {
    const found: Neighbour[] = [];
    for (let i = this.targetStart[node]; i < this.targetStart[node + 1]; i++) {
      const edge = this.targetEdge[i];
      if (shown[this.targets[i]]) found.push([this.targets[i], this.parts.weight[edge], edge]);
    }
    return found.sort(bySize);
  }
}

/** The node at an edge's other end, its weight, its number. */
export type Neighbour = readonly [node: number, weight: number, edge: number];

function bySize(a: Neighbour, b: Neighbour): number {
  return Math.abs(b[1]) - Math.abs(a[1]);
}
