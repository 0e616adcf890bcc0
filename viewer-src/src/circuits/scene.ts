/** What is to be seen of a circuit, or of two: which edges, and how many meet at each component. */

import type { Component, Graph } from "../graph";
import type { Circuit, Ranking } from "../ranking";
import type { EvidenceHeader } from "../data";

export type Show = "all" | "shared" | "first" | "second";
/** Of two circuits: the one looked at (`first`), the one it is compared with (`second`), or both. */
export type Side = "shared" | "first" | "second";

export interface Sizes {
  shared: number;
  first: number;
  second: number;
}

export class Scene {
  /** Edges to show: the first circuit's, best first, then those that only the second has. */
  readonly edges: Uint32Array;
  readonly sizes: Sizes;
  /** Edges in and out of each component, among those shown. */
  readonly inputs: Uint32Array;
  readonly outputs: Uint32Array;
  readonly busiest: number;
  /** Whether each component writes to anything, in either circuit; the logits always count. */
  readonly writes: Uint8Array;

  constructor(
    readonly graph: Graph,
    readonly ranking: Ranking,
    readonly circuit: Circuit,
    readonly other: Circuit | null,
    show: Show,
    /** Of which run the other circuit is. */
    readonly otherRanking: Ranking | null = null,
  ) {
    const both = other ? circuit.edges.filter((edge) => other.has[edge]).length : circuit.edges.length;
    this.sizes = {
      shared: both,
      first: circuit.edges.length - both,
      second: other ? other.edges.length - both : 0,
    };
    const all = other ? [...circuit.edges, ...other.edges.filter((edge) => !circuit.has[edge])] : circuit.edges;
    this.edges = Uint32Array.from(show === "all" ? all : all.filter((edge) => this.side(edge) === show));
    this.inputs = new Uint32Array(graph.nWriters + 1);
    this.outputs = new Uint32Array(graph.nWriters + 1);
    for (const edge of this.edges) {
      this.outputs[graph.writerOf(edge)]++;
      for (const component of graph.fed[graph.readerOf(edge)]) this.inputs[component]++;
    }
    this.writes = new Uint8Array(graph.nWriters + 1);
    this.writes[graph.logits] = 1;
    for (const each of [circuit, other]) for (const edge of each?.edges ?? []) this.writes[graph.writerOf(edge)] = 1;
    this.busiest = graph.components.reduce((most, c) => Math.max(most, this.meeting(c)), 0);
  }

  /** How many edges meet at a component; what goes into a feature does so in its own layer alone. */
  meeting(c: Component): number {
    return (this.graph.isPlace(c) ? 0 : this.inputs[c]) + this.outputs[c];
  }

  side(edge: number): Side {
    if (!this.other) return "shared";
    return this.circuit.has[edge] ? (this.other.has[edge] ? "shared" : "first") : "second";
  }

  /** The ranking that put an edge into the picture: the other circuit's, where only that one has it. */
  rankingOf(edge: number): Ranking {
    return this.onlyOtherHas(edge) ? this.otherRanking! : this.ranking;
  }

  /** Whether an edge is in the other circuit alone; one that is in neither is told of by the first's ranking. */
  private onlyOtherHas(edge: number): boolean {
    return !!this.otherRanking && !!this.other?.has[edge] && !this.circuit.has[edge];
  }

  /** What was measured of an edge in either circuit's file, and its place there; null where nothing was. */
  evidenceOf(edge: number): { evidence: EvidenceHeader; place: number } | null {
    for (const ranking of [this.rankingOf(edge), this.ranking, this.otherRanking]) {
      const evidence = ranking?.header.evidence;
      const place = evidence?.edges.indexOf(edge) ?? -1;
      if (evidence && place >= 0) return { evidence, place };
    }
    return null;
  }

  /** An edge's score in its ranking. */
  score(edge: number): number | null {
    return this.rankingOf(edge).scores?.[edge] ?? null;
  }

  /** An edge's place in its ranking, from 0. */
  rank(edge: number): number | undefined {
    return this.rankingOf(edge).rank?.[edge];
  }

  /** The edges into a component, in the order of `edges`. */
  into(component: Component): number[] {
    const readers = new Set(this.graph.readersOf(component));
    return Array.from(this.edges.filter((edge) => readers.has(this.graph.readerOf(edge))));
  }

  outOf(component: Component): number[] {
    return Array.from(this.edges.filter((edge) => this.graph.writerOf(edge) === component));
  }

  /** Components by how many edges meet there, the busiest first; only those with any. */
  byEdges(): Component[] {
    const meet = (c: Component) => this.meeting(c);
    return this.graph.components.filter(meet).sort((a, b) => meet(b) - meet(a));
  }
}
