/** A model's graph: who writes, who reads, which edges there are, and which of some edges can carry signal. */

import type { GraphHeader, PageData } from "./data";

const EMBEDDING = 0;
export const ERROR = 4;
export const QUERY = 0;
export const KEY = 1;
export const VALUE = 2;
export const MLP = 3;
export const LOGITS = 4;
const ATTENTION_BLOCK = 0;
const LOGITS_BLOCK = 3;
const BLOCK_COLUMNS = 4; // kind, first reader, readers, first writer that they feed

/** What a reader is to its component, in short. */
export const ROLES = ["q", "k", "v", "in", "in", "in"] as const;

/**
 * A component: a head, an MLP, a feature, an embedding, or the logits. It has the number of what it writes as a writer;
 * the logits, which write nothing, come last.
 */
export type Component = number;

export class Graph {
  readonly writers: string[];
  readonly readers: string[];
  readonly nWriters: number;
  readonly nReaders: number;
  readonly nPlain: number;
  readonly nEdges: number;
  readonly writerKind: Uint8Array;
  readonly writerLayer: Int16Array;
  readonly writerHead: Int16Array;
  readonly readerKind: Uint8Array;
  readonly readerLayer: Int16Array;
  readonly readerHead: Int16Array;
  readonly visible: Uint32Array;
  readonly offset: Uint32Array;
  readonly edgeReader: Uint32Array;
  /**
   * What each reader feeds, as components: several where heads share a key, or a feature writes to several layers, to
   * each from a place of its own (the first is in its own layer).
   */
  readonly fed: Component[][];
  readonly logits: Component;
  private readonly blocks: Uint32Array;
  private readonly feeds: Uint32Array;
  private readonly feedsStart: Uint32Array;
  private readonly numbers: Map<string, Component>;

  constructor(
    readonly header: GraphHeader,
    page: PageData,
  ) {
    const at = (name: string) => `${header.arrays}/${name}`;
    this.writers = header.writers;
    this.readers = header.readers;
    this.nWriters = this.writers.length;
    this.nReaders = this.readers.length;
    this.writerKind = page.array(at("writer_kind"), "u1");
    this.writerLayer = page.array(at("writer_layer"), "i2");
    this.writerHead = page.array(at("writer_head"), "i2");
    this.readerKind = page.array(at("reader_kind"), "u1");
    this.readerLayer = page.array(at("reader_layer"), "i2");
    this.readerHead = page.array(at("reader_head"), "i2");
    this.visible = page.array(at("visible"), "u4");
    this.offset = page.array(at("offset"), "u4");
    this.blocks = page.array(at("blocks"), "u4");
    this.feeds = page.array(at("feeds"), "u4");
    this.feedsStart = page.array(at("feeds_start"), "u4");
    this.nPlain = this.visible.reduce((sum, n) => sum + n, 0);
    this.nEdges = this.nPlain * this.groups;
    this.logits = this.nWriters;
    this.edgeReader = new Uint32Array(this.nPlain);
    for (let r = 0; r < this.nReaders; r++) this.edgeReader.fill(r, this.offset[r], this.offset[r] + this.visible[r]);
    this.fed = Array.from({ length: this.nReaders }, () => []);
    for (let w = 0; w < this.nWriters; w++) for (const r of this.readersOf(w)) this.fed[r].push(w);
    this.fed[this.nReaders - 1].push(this.logits);
    this.numbers = new Map(this.components.map((c) => [this.name(c), c]));
  }

  /** Position groups; 1 where edges carry no positions. */
  get groups(): number {
    return this.header.spans.length || 1;
  }

  /** All components, in the order in which they write. */
  get components(): Component[] {
    return Array.from({ length: this.nWriters + 1 }, (_, c) => c);
  }

  /** The readers of a component. */
  readersOf(component: Component): Uint32Array | number[] {
    if (component === this.logits) return [this.nReaders - 1];
    return this.feeds.subarray(this.feedsStart[component], this.feedsStart[component + 1]);
  }

  /** Whether a component is what a feature writes to a later layer than its own. */
  isPlace(component: Component): boolean {
    return component !== this.logits && this.writers[component].includes(">");
  }

  /** Whether a component is an MLP, or what is left of one: an error term, or the rest of its neurons. */
  isRest(component: Component): boolean {
    return this.writerKind[component] === ERROR || this.writerKind[component] === 2;
  }

  /** The components that read through a reader: the heads that share a key or value, otherwise one. */
  readBy(reader: number): Component[] {
    const kind = this.readerKind[reader];
    return kind === KEY || kind === VALUE ? this.fed[reader] : this.fed[reader].slice(0, 1);
  }

  writerOf(edge: number): number {
    const plain = edge % this.nPlain;
    return plain - this.offset[this.edgeReader[plain]];
  }

  readerOf(edge: number): number {
    return this.edgeReader[edge % this.nPlain];
  }

  /** The name of an edge's position group; nothing where edges carry no positions. */
  spanOf(edge: number): string {
    return this.header.spans[Math.floor(edge / this.nPlain)] ?? "";
  }

  name(component: Component): string {
    return component === this.logits ? "logits" : this.writers[component];
  }

  component(name: string): Component | null {
    return this.numbers.get(name) ?? null;
  }

  edgeName(edge: number): string {
    const span = this.spanOf(edge);
    return `${this.writers[this.writerOf(edge)]} → ${this.readers[this.readerOf(edge)]}${span && ` @ ${span}`}`;
  }

  layer(component: Component): number {
    return component === this.logits ? this.header.layers : this.writerLayer[component];
  }

  /** In words, such as `head 3 of layer 9`. */
  describe(component: Component): string {
    if (component === this.logits) return "the final norm, which the logits read";
    const layer = this.writerLayer[component];
    const kind = this.writerKind[component];
    if (kind === 1) return `head ${this.writerHead[component]} of layer ${layer}`;
    if (kind === EMBEDDING) return "embedding";
    if (kind === ERROR) return `error term of layer ${layer}`;
    const [source, place] = this.name(component).split(">");
    if (place) return `what ${source} writes to layer ${layer}`;
    const [, part = ""] = source.split(".");
    if (kind === 2) return `${part && "rest of the "}MLP of layer ${layer}`;
    return `${part.startsWith("n") ? (part.includes("+") ? "neurons" : "neuron") : "feature"} in layer ${layer}`;
  }

  /**
   * Which of the kept edges can carry signal: `Graph.prune`. An edge into what the logits never read counts for nothing;
   * under interchange, neither does one from what no embedding reaches, and no kept error term.
   */
  prune(kept: Uint8Array, interchange: boolean): Uint8Array {
    const useful = this.usefulReaders(kept);
    const reached = interchange && this.header.embeddings > 0 ? this.reachedWriters(kept) : null;
    const alive = new Uint8Array(this.nEdges);
    for (let g = 0; g < this.groups; g++) {
      for (let r = 0; r < this.nReaders; r++) {
        if (!useful[g * this.nReaders + r]) continue;
        const first = g * this.nPlain + this.offset[r];
        for (let w = 0; w < this.visible[r]; w++) {
          alive[first + w] = kept[first + w] && (!reached || reached[g * this.nWriters + w]) ? 1 : 0;
        }
      }
    }
    return alive;
  }

  private usefulReaders(kept: Uint8Array): Uint8Array {
    const { nReaders, nWriters, groups } = this;
    const useful = new Uint8Array(groups * nReaders);
    const needed = new Uint8Array(groups * nWriters);
    for (let b = this.blocks.length / BLOCK_COLUMNS - 1; b >= 0; b--) {
      const [kind, reader, n, writer] = this.blocks.subarray(b * BLOCK_COLUMNS, (b + 1) * BLOCK_COLUMNS);
      const needs = (g: number, r: number) => this.fed[r].some((w) => needed[g * nWriters + w]);
      if (kind === ATTENTION_BLOCK) this.markReadersOfHeads(needed, useful, reader, writer);
      for (let g = 0; g < groups; g++) {
        for (let i = 0; i < n; i++) {
          const r = g * nReaders + reader + i;
          if (kind === LOGITS_BLOCK) useful[r] = 1;
          else if (kind !== ATTENTION_BLOCK) useful[r] = needs(g, reader + i) ? 1 : 0;
          if (!useful[r]) continue;
          const first = g * this.nPlain + this.offset[reader + i];
          for (let w = 0; w < this.visible[reader + i]; w++) if (kept[first + w]) needed[g * nWriters + w] = 1;
        }
      }
    }
    return useful;
  }

  /** A head's query counts if the head does, in its position group; a key or value if any head that shares it does. */
  private markReadersOfHeads(needed: Uint8Array, useful: Uint8Array, reader: number, writer: number): void {
    const { heads, keys } = this.header;
    for (let g = 0; g < this.groups; g++) {
      const at = g * this.nWriters + writer;
      const coupled = this.header.coupled && needed.subarray(at, at + heads).includes(1);
      for (let h = 0; h < heads; h++) {
        if (!coupled && !needed[at + h]) continue;
        useful[g * this.nReaders + reader + h] = 1;
        const key = Math.floor((h * keys) / heads);
        for (let other = 0; other < this.groups; other++) {
          const first = other * this.nReaders + reader + heads + key;
          useful[first] = useful[first + keys] = 1;
        }
      }
    }
  }

  private reachedWriters(kept: Uint8Array): Uint8Array {
    const { nReaders, nWriters, groups } = this;
    const error = this.header.firstKeptError;
    const reached = new Uint8Array(groups * nWriters);
    const reading = new Uint8Array(groups * nReaders);
    for (let g = 0; g < groups; g++) {
      for (let w = 0; w < nWriters; w++) {
        if (this.writerKind[w] === EMBEDDING || this.writerKind[w] === ERROR) reached[g * nWriters + w] = 1;
      }
    }
    for (let b = 0; b < this.blocks.length / BLOCK_COLUMNS - 1; b++) {
      const [kind, reader, n, writer] = this.blocks.subarray(b * BLOCK_COLUMNS, (b + 1) * BLOCK_COLUMNS);
      for (let g = 0; g < groups; g++) {
        for (let r = reader; r < reader + n; r++) {
          const first = g * this.nPlain + this.offset[r];
          let reads = error !== null && error < this.readerLayer[r]; // what is kept reaches all readers after its layer
          for (let w = 0; w < this.visible[r] && !reads; w++) reads = !!(kept[first + w] && reached[g * nWriters + w]);
          if (!reads) continue;
          reading[g * nReaders + r] = 1;
          if (kind !== ATTENTION_BLOCK) for (const w of this.fed[r]) reached[g * nWriters + w] = 1;
        }
      }
      if (kind === ATTENTION_BLOCK) this.markReachedHeads(reading, reached, reader, writer);
    }
    return reached;
  }

  private markReachedHeads(reading: Uint8Array, reached: Uint8Array, reader: number, writer: number): void {
    const { heads, keys } = this.header;
    const seen = new Uint8Array(keys);
    for (let g = 0; g < this.groups; g++) {
      const first = g * this.nReaders + reader + heads;
      for (let k = 0; k < keys; k++) if (reading[first + k] || reading[first + keys + k]) seen[k] = 1;
    }
    for (let g = 0; g < this.groups; g++) {
      const at = g * this.nWriters + writer;
      let any = 0;
      for (let h = 0; h < heads; h++) {
        const here = reading[g * this.nReaders + reader + h] || seen[Math.floor((h * keys) / heads)];
        reached[at + h] = here;
        any ||= here;
      }
      if (this.header.coupled && any) reached.fill(1, at, at + heads);
    }
  }
}
