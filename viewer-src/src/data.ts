/** What the page carries: a header of plain values, and arrays in one deflated block. See `_pack.py`. */

export const FORMAT = 1;

export interface ArrayEntry {
  type: "u1" | "u2" | "u4" | "i2" | "i4" | "f4" | "f8";
  start: number;
  length: number;
}

export interface GraphHeader {
  arrays: string;
  writers: string[];
  readers: string[];
  layers: number;
  heads: number;
  keys: number;
  spans: string[];
  coupled: boolean;
  embeddings: number;
  /** The first layer whose error term is kept whatever the circuit; null where none is. */
  firstKeptError: number | null;
  /** What MLPs are taken apart into, in words; empty where none is. */
  apart: string;
  convention: string;
}

export interface Measured {
  value: number;
  /** Null of one example. */
  low: number | null;
  high: number | null;
  full: number;
  empty: number;
  random: number | null;
  eap: number | null;
  lower_is_better: boolean;
  faithfulness: number | null;
}

export interface WorstExample {
  number: number;
  distance: number;
  clean: string;
  corrupted: string;
}

export interface EvaluationHeader {
  name: string;
  /** Of the circuit's own task and model. */
  own: boolean;
  actual: number;
  n: number;
  split: string | null;
  metrics: Record<string, Measured>;
  worst: WorstExample[];
}

/** Method, actual edges, value, and the interval's ends. */
export type CurvePoint = [string, number, number, number | null, number | null];

export interface CurveHeader {
  metric: string;
  points: CurvePoint[];
  full: number;
  empty: number;
  n: number;
  split: string | null;
}

/** Tokens and their probabilities, the likeliest first. */
export type Said = [string, number][];

export interface PredictionHeader {
  number: number;
  clean: string[];
  corrupted: string[];
  answers: string[];
  model: Said;
  circuit: Said;
}

/** Where a head looks that reads an edge: of each key its position, and the attention with the edge and without it. */
export interface LookHeader {
  example: number;
  head: number;
  query: number;
  keys: [number, number, number][];
}

/** Exact effects of edges, and predictions. */
export interface EvidenceHeader {
  metric: string;
  split: string;
  pairs: number;
  edges: number[];
  effects: number[];
  predictions: PredictionHeader[];
  by_pair: number[][];
  prompts: string[][];
  looks: (LookHeader | null)[];
}

export interface CircuitHeader {
  graph: number;
  arrays: string;
  label: string;
  edges: number;
  actual: number;
  total: number;
  interchange: boolean;
  absolute: boolean;
  signed: boolean;
  about: [string, string][];
  /** What a score is, in a sentence; empty where there are none. */
  score: string;
  evaluations: EvaluationHeader[];
  curve: CurveHeader | null;
  evidence: EvidenceHeader | null;
  notes: string[];
}

/** What several graphs say beside each number of the one that is drawn; see `Several` in `_graphs.py`. */
export interface SeveralHeader {
  kind: "merged" | "difference";
  names: string[];
  n_prompts: number[];
  flows: boolean;
}

/** An attribution graph of edgewise; its numbers and names are arrays. */
export interface AttributionHeader {
  arrays: string;
  title: string;
  tokens: string[];
  ledger: boolean;
  about: [string, string][];
  notes: string[];
  several: SeveralHeader | null;
  reasons: { layers: number; heads: number } | null;
}

/** A file of another tool, as it is. */
export interface ForeignHeader {
  name: string;
  array: string;
}

/** A transcoder's features; their numbers are arrays. See `_feature_sets.py`. */
export interface FeatureSetHeader {
  arrays: string;
  name: string;
  layer: number;
  n: number;
  /** Tokens of the text that count. */
  tokens: number;
  context: number;
  /** Tokens of an example's context, at most. */
  window: number;
  listed: number;
  /** Layers whose heads write to what it reads. */
  attention: number;
  /** Which connections are weighed by the text: `inputs`, `outputs`. */
  virtual: string[];
  labels: [string, string][];
  /** Pages of other layers' features, by layer. */
  files: Record<string, string>;
  about: [string, string][];
}

export interface Header {
  format: number;
  title: string;
  /** Words for the components of circuits and the nodes of graphs, by their names or their features'. */
  labels: [string, string][];
  features: FeatureSetHeader[];
  graphs: GraphHeader[];
  circuits: CircuitHeader[];
  attributions: AttributionHeader[];
  foreign: ForeignHeader[];
  arrays: Record<string, ArrayEntry>;
}

const TYPES = {
  u1: Uint8Array,
  u2: Uint16Array,
  u4: Uint32Array,
  i2: Int16Array,
  i4: Int32Array,
  f4: Float32Array,
  f8: Float64Array,
};

type Kinds = { [K in keyof typeof TYPES]: InstanceType<(typeof TYPES)[K]> };

export class PageData {
  constructor(
    readonly header: Header,
    private readonly bytes: ArrayBuffer,
  ) {}

  /** Whether there is an array of this name. */
  has(name: string): boolean {
    return Object.hasOwn(this.header.arrays, name);
  }

  /** The array of this name, where it lies among the bytes. */
  array<K extends keyof Kinds>(name: string, type: K): Kinds[K] {
    const entry = this.has(name) ? this.header.arrays[name] : undefined;
    if (!entry || entry.type !== type) throw new Error(`the page has no array ${name} of type ${type}`);
    return new TYPES[type](this.bytes, entry.start, entry.length) as Kinds[K];
  }
}

/** The text that an array of bytes holds. */
export function textOf(page: PageData, name: string): string {
  return new TextDecoder().decode(page.array(name, "u1"));
}

/** Read the page's own data elements. */
export async function readPage(): Promise<PageData> {
  const header = JSON.parse(document.getElementById("edgewise-header")?.textContent ?? "") as Header;
  if (header.format !== FORMAT) throw new Error(`the page is of format ${header.format}; this viewer reads ${FORMAT}`);
  const place = document.getElementById("edgewise-data");
  const bytes = await inflate(fromBase64(place?.textContent ?? ""));
  place?.remove(); // its text is as large as everything else together
  return new PageData(header, bytes);
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const { fromBase64: quick } = Uint8Array as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> };
  if (quick) return quick.call(Uint8Array, text);
  const coded = atob(text);
  const bytes = new Uint8Array(coded.length);
  for (let i = 0; i < coded.length; i++) bytes[i] = coded.charCodeAt(i);
  return bytes;
}

async function inflate(bytes: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}
