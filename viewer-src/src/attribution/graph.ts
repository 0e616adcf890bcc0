/** An attribution graph: tokens, features or neurons, errors and biases, and how much each gives to which. */

/** Kinds of nodes; a node's `kind` is its place in this list. */
export const KINDS = ["token", "position", "neuron", "feature", "error", "bias", "root"] as const;
export type Kind = (typeof KINDS)[number];
export const [TOKEN, POSITION, NEURON, FEATURE, ERROR, BIAS, ROOT] = KINDS.keys();

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

  /** Features and neurons: what pruning may take away and people pin. */
  isInner(node: number): boolean {
    const kind = this.parts.kind[node];
    return kind === FEATURE || kind === NEURON;
  }

  isError(node: number): boolean {
    return this.parts.kind[node] === ERROR;
  }

  name(node: number): string {
    return this.parts.labels[node] || this.parts.ids[node];
  }

  /** Where a node stands, in words. */
  describe(node: number): string {
    const { kind, layer, position, tokens } = this.parts;
    const at = position[node] >= 0 ? `token ${position[node]}, “${tokens[position[node]] ?? ""}”` : "all tokens";
    const where = kind[node] === ROOT || layer[node] < 0 ? "" : `, layer ${layer[node]}`;
    return `${KINDS[kind[node]]}${where}, ${at}`;
  }

  /** A node's number by its id. */
  node(id: string): number | null {
    this.numbers ??= new Map(this.parts.ids.map((each, i) => [each, i]));
    return this.numbers.get(id) ?? null;
  }

  /** A target's sources and what each gives, the largest first; only those shown. */
  inputs(node: number, shown: Uint8Array): [number, number][] {
    const { offsets, sources, weight } = this.parts;
    const found: [number, number][] = [];
    for (let e = offsets[node]; e < offsets[node + 1]; e++) if (shown[sources[e]]) found.push([sources[e], weight[e]]);
    return found.sort(bySize);
  }

  /** A source's targets and what it gives to each, the largest first. */
  outputs(node: number, shown: Uint8Array): [number, number][] {
    const found: [number, number][] = [];
    for (let i = this.targetStart[node]; i < this.targetStart[node + 1]; i++) {
      if (shown[this.targets[i]]) found.push([this.targets[i], this.parts.weight[this.targetEdge[i]]]);
    }
    return found.sort(bySize);
  }
}

function bySize(a: [number, number], b: [number, number]): number {
  return Math.abs(b[1]) - Math.abs(a[1]);
}
