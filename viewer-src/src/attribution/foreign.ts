/** Graphs in the JSON of Neuronpedia and circuit-tracer. Whatever does not fit is refused with one message. */

import { BIAS, type Dashboard, type Edges, ERROR, FEATURE, NEURON, NO_EXTRAS, type Parts, ROOT, type Term, TOKEN } from "./graph";

type Row = Record<string, unknown>;

export const LARGEST = 400 * 2 ** 20; // bytes: a browser's longest text is not much more
const MOST_NODES = 1e6;
const MOST_TERMS = 100; // of a node's attention, in each list
const LONGEST = 2000; // characters of a text that is shown
const TYPES: ReadonlyMap<string, number> = new Map([
  ["embedding", TOKEN],
  ["cross layer transcoder", FEATURE],
  ["lorsa", FEATURE],
  ["unknown", FEATURE],
  ["mlp reconstruction error", ERROR],
  ["lorsa error", ERROR],
  ["bias", BIAS],
  ["logit", ROOT],
]);

/** A file's graph. Raises an error that says what is wrong with it. */
export async function readFile(file: File): Promise<Parts> {
  if (file.size > LARGEST) {
    const size = (file.size / 2 ** 20).toFixed(0);
    throw new Error(`it has ${size} MiB; at most ${LARGEST / 2 ** 20} MiB are read, so make it with fewer nodes`);
  }
  return parse(await file.text(), file.name);
}

/** The graph in a text. Raises an error that says what is wrong with it. */
export function parse(text: string, name: string, dashboards: ReadonlyMap<string, Dashboard> = new Map()): Parts {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    const constant = /[:[,]\s*(NaN|-?Infinity)\b/.exec(text)?.[1];
    throw new Error(constant ? `it has ${constant}, which is no number of JSON: write null there` : "it is no JSON, or was cut short");
  }
  const graph = row(content, "the file");
  const nodes = list(graph, "nodes");
  const links = list(graph, "links");
  if (!nodes.length) throw new Error("it has no nodes");
  if (nodes.length > MOST_NODES) throw new Error(`it has ${nodes.length} nodes; at most ${MOST_NODES} are read`);
  const metadata = isRow(graph.metadata) ? graph.metadata : {};
  const tokens = Array.isArray(metadata.prompt_tokens) ? metadata.prompt_tokens.map(shown) : [];
  const notes: string[] = [];
  const table = readNodes(nodes, tokens, notes);
  // As edgewise writes graphs of neurons (`_neuronpedia.py`), which the format does not have.
  const ofNeurons = typeof metadata.scan === "string" && metadata.scan.endsWith("-neurons");
  if (ofNeurons) table.parts.kind.forEach((kind, i, kinds) => kind === FEATURE && (kinds[i] = NEURON));
  const edges = readLinks(links, nodes.length, table.numbers, notes);
  const about = ["slug", "scan", "prompt"].filter((key) => metadata[key] !== undefined);
  return {
    ...table.parts,
    ...edges,
    title: shown(metadata.slug ?? name),
    tokens: table.tokens,
    ledger: null,
    extras: { ...NO_EXTRAS, tracing: tracing(nodes), dashboards },
    about: [
      ["file", name],
      ...about.map((key): [string, string] => [key, shown(metadata[key])]),
      ...settings(metadata),
    ],
    notes,
  };
}

/** What some nodes' attention rests on. Whatever has not the form that Neuronpedia's schema gives it is left out. */
function tracing(nodes: unknown[]): Map<number, Term[]> {
  const found = new Map<number, Term[]>();
  nodes.forEach((each, i) => {
    const results = isRow(each) ? each.qk_tracing_results : null;
    if (!isRow(results)) return;
    const terms = (name: string, sides: ("query" | "key")[]) => {
      const rows = results[name];
      return Array.isArray(rows) ? rows.slice(0, MOST_TERMS).map((row) => term(row, sides)).filter((made) => made !== null) : [];
    };
    const all = [
      ...terms("pair_wise_contributors", ["query", "key"]),
      ...terms("top_q_marginal_contributors", ["query"]),
      ...terms("top_k_marginal_contributors", ["key"]),
    ];
    if (all.length) found.set(i, all);
  });
  return found;
}

function term(row: unknown, sides: ("query" | "key")[]): Term | null {
  if (!Array.isArray(row) || row.length !== sides.length + 1) return null;
  const weight: unknown = row[sides.length];
  if (typeof weight !== "number" || !Number.isFinite(weight)) return null;
  const made: Term = { query: "", key: "", weight };
  sides.forEach((side, i) => (made[side] = shown(row[i])));
  return made;
}

function settings(metadata: Row): [string, string][] {
  const found: [string, string][] = [];
  for (const group of ["generation_settings", "pruning_settings", "info"]) {
    const values = metadata[group];
    if (isRow(values)) for (const [key, value] of Object.entries(values)) found.push([key.replaceAll("_", " "), shown(value)]);
  }
  return found.slice(0, 40);
}

function readNodes(rows: unknown[], given: string[], notes: string[]) {
  const n = rows.length;
  const parts = {
    kind: new Uint8Array(n),
    layer: new Int16Array(n),
    position: new Int32Array(n).fill(-1),
    value: new Float32Array(n).fill(NaN),
    ids: new Array<string>(n),
    labels: new Array<string>(n),
    rootWeight: new Float64Array(n),
    share: new Float32Array(n) as Float32Array | null,
  };
  const numbers = new Map<string, number>();
  let [most, twice, last, withoutShare] = [-1, 0, -1, 0];
  rows.forEach((each, i) => {
    const what = `node ${i}`;
    const node = row(each, what);
    const id = node.node_id;
    if (typeof id !== "string") throw new Error(`${what} has no node_id that is a text`);
    if (numbers.has(id)) twice++;
    else numbers.set(id, i);
    const kind = TYPES.get(typeof node.feature_type === "string" ? node.feature_type : "") ?? FEATURE;
    parts.ids[i] = id.slice(0, LONGEST);
    parts.kind[i] = kind;
    parts.layer[i] = kind === TOKEN ? -1 : kind === ROOT ? 0 : layerOf(node.layer, what);
    if (kind !== ROOT) last = Math.max(last, parts.layer[i]);
    if (node.ctx_idx !== undefined && node.ctx_idx !== null) parts.position[i] = positionOf(node.ctx_idx, what);
    most = Math.max(most, parts.position[i]);
    parts.labels[i] = shown(node.ppClerp || node.clerp || "");
    if (typeof node.activation === "number") parts.value[i] = node.activation;
    if (typeof node.influence === "number" && parts.share) parts.share[i] = node.influence;
    else if (kind === FEATURE || kind === ERROR) withoutShare++;
    if (kind === ROOT) parts.rootWeight[i] = probability(node);
  });
  for (let i = 0; i < n; i++) if (parts.kind[i] === ROOT) parts.layer[i] = last + 1;
  if (!parts.rootWeight.some((w) => w > 0)) parts.kind.forEach((kind, i) => (parts.rootWeight[i] = kind === ROOT ? 1 : 0));
  if (withoutShare) parts.share = null;
  if (twice) notes.push(`${twice} nodes have an id that another node has; links to it are taken to the first.`);
  const tokens = Array.from({ length: Math.max(most + 1, given.length) }, (_, i) => given[i] ?? `[${i}]`);
  return { parts, numbers, tokens };
}

function readLinks(rows: unknown[], nodes: number, numbers: ReadonlyMap<string, number>, notes: string[]): Edges {
  const [from, to] = [new Uint32Array(rows.length), new Uint32Array(rows.length)];
  const weights = new Float32Array(rows.length);
  let [n, lost] = [0, 0];
  rows.forEach((each, i) => {
    const what = `link ${i}`;
    const link = row(each, what);
    if (typeof link.source !== "string" || typeof link.target !== "string") {
      throw new Error(`${what} has no source and target that are texts`);
    }
    if (typeof link.weight !== "number" || !Number.isFinite(link.weight)) throw new Error(`${what} has no weight that is a number`);
    const [source, target] = [numbers.get(link.source), numbers.get(link.target)];
    if (source === undefined || target === undefined) {
      lost++;
      return;
    }
    if (source === target) throw new Error(`${what} goes from a node to itself`);
    [from[n], to[n], weights[n]] = [source, target, link.weight];
    n++;
  });
  if (lost) notes.push(`${lost} of ${rows.length} links name a node that is not there, and are left out.`);
  return byTarget(nodes, from.subarray(0, n), to.subarray(0, n), weights);
}

function byTarget(nodes: number, from: Uint32Array, to: Uint32Array, weights: Float32Array): Edges {
  const offsets = new Uint32Array(nodes + 1);
  for (const target of to) offsets[target + 1]++;
  for (let i = 0; i < nodes; i++) offsets[i + 1] += offsets[i];
  const next = offsets.slice();
  const [sources, weight] = [new Uint32Array(from.length), new Float32Array(from.length)];
  for (let i = 0; i < from.length; i++) {
    const place = next[to[i]]++;
    sources[place] = from[i];
    weight[place] = weights[i];
  }
  return { offsets, sources, weight };
}

/** The probability that a logit's node states, alone or in its label. */
function probability(node: Row): number {
  if (typeof node.token_prob === "number" && node.token_prob > 0) return node.token_prob;
  const said = typeof node.clerp === "string" ? /.*\(p=(\d+(?:\.\d*)?)\)/s.exec(node.clerp) : null;
  return said ? Number(said[1]) : 0;
}

function layerOf(value: unknown, what: string): number {
  const layer = value === "E" ? -1 : typeof value === "string" && value.trim() ? Number(value) : value;
  if (typeof layer !== "number" || !Number.isInteger(layer) || layer < -1 || layer > 2000) {
    throw new Error(`${what} has no layer that is a number from 0 to 2000, or E`);
  }
  return layer;
}

function positionOf(value: unknown, what: string): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < -1 || value > 1e6) {
    throw new Error(`${what} has no ctx_idx that is a token's number`);
  }
  return value;
}

function isRow(value: unknown): value is Row {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function row(value: unknown, what: string): Row {
  if (!isRow(value)) throw new Error(`${what} is no object with names`);
  return value;
}

function list(graph: Row, name: string): unknown[] {
  const found = graph[name];
  if (!Array.isArray(found)) throw new Error(`it has no list of ${name}, as the graphs of Neuronpedia and circuit-tracer have`);
  return found;
}

function shown(value: unknown): string {
  const text = typeof value === "object" && value !== null ? written(value) : String(value);
  return text.slice(0, LONGEST);
}

function written(value: object): string {
  try {
    return JSON.stringify(value);
  } catch {
    return "…"; // nested too deeply to be written
  }
}
