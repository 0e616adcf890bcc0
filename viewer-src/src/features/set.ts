/** A transcoder's features: the page's arrays, feature by feature. See `_feature_sets.py`. */

import { type FeatureSetHeader, type PageData, textOf } from "../data";

/** A token's text, or its bytes where they are no whole characters. */
export type TokenText = string | number[];

/** A token and a number. */
export type Ranked = [token: number, weight: number];

export interface Other {
  layer: number;
  feature: number;
  weight: number;
}

export interface Virtual extends Other {
  era: number;
  twera: number;
}

export interface Head {
  layer: number;
  head: number;
  length: number;
  tokens: Ranked[];
  features: Other[];
}

export interface Example {
  /** Token by token, as places in `texts`. */
  tokens: ArrayLike<number>;
  /** From 0 to 255 of the feature's largest activation. */
  levels: ArrayLike<number>;
  /** Which of the tokens it is. */
  at: number;
  value: number;
}

/** Some examples of one part of the range of activations. */
export interface Bin {
  low: number;
  high: number;
  share: number;
  examples: Example[];
}

type Kind = "u4" | "f4" | "i2" | "i4";

export class FeatureSet {
  readonly texts: TokenText[];
  readonly on: Uint32Array;
  readonly max: Float32Array;
  readonly mean: Float32Array;
  readonly bias: Float32Array;
  readonly edges: Float64Array;
  private readonly firesOn: Uint32Array;

  constructor(
    private readonly page: PageData,
    readonly header: FeatureSetHeader,
  ) {
    this.texts = JSON.parse(textOf(page, this.at("texts"))) as TokenText[];
    this.on = this.array("on", "u4");
    this.max = this.array("max", "f4");
    this.mean = this.array("mean", "f4");
    this.bias = this.array("bias", "f4");
    this.edges = page.array(this.at("edges"), "f8");
    this.firesOn = this.array("fires_on/token", "u4");
  }

  get n(): number {
    return this.header.n;
  }

  name(feature: number): string {
    return `m${this.header.layer}.f${feature}`;
  }

  /** The feature of this set that a name stands for. */
  feature(name: string): number | null {
    const found = /^m(\d+)\.f(\d+)$/.exec(name);
    const feature = found && Number(found[1]) === this.header.layer ? Number(found[2]) : NaN;
    return feature < this.n ? feature : null;
  }

  density(feature: number): number {
    return this.on[feature] / this.header.tokens;
  }

  /** The token at which a feature is on most often. */
  commonest(feature: number): TokenText {
    return this.on[feature] ? this.texts[this.firesOn[feature * this.header.listed]] : "";
  }

  /** A feature's row of a table of numbers. */
  row(name: string, feature: number, kind: "u4"): Uint32Array;
  row(name: string, feature: number, kind: "f4"): Float32Array;
  row(name: string, feature: number, kind: "i2"): Int16Array;
  row(name: string, feature: number, kind: "i4"): Int32Array;
  row(name: string, feature: number, kind: Kind): ArrayLike<number> {
    const all = this.page.array(this.at(name), kind);
    const width = all.length / this.n;
    return all.subarray(feature * width, (feature + 1) * width);
  }

  /** Tokens by a weight; those of weight 0 are none. */
  ranked(name: string, feature: number): Ranked[] {
    const tokens = this.row(`${name}/token`, feature, "u4");
    const weights = this.row(`${name}/weight`, feature, "f4");
    return Array.from(tokens, (token, i): Ranked => [token, weights[i]]).filter((each) => each[1] !== 0);
  }

  others(name: string, feature: number): Other[] {
    const layers = this.row(`${name}/layer`, feature, "i2");
    const features = this.row(`${name}/feature`, feature, "i4");
    const weights = this.row(`${name}/weight`, feature, "f4");
    return Array.from(layers, (layer, i) => ({ layer, feature: features[i], weight: weights[i] })).filter((each) => each.layer >= 0);
  }

  /** Connections with how the text weighs them. */
  virtual(name: string, feature: number): Virtual[] {
    const era = this.row(`${name}/era`, feature, "f4");
    const twera = this.row(`${name}/twera`, feature, "f4");
    const layers = this.row(`${name}/layer`, feature, "i2");
    const features = this.row(`${name}/feature`, feature, "i4");
    const weights = this.row(`${name}/weight`, feature, "f4");
    const all = Array.from(layers, (layer, i) => ({ layer, feature: features[i], weight: weights[i], era: era[i], twera: twera[i] }));
    return all.filter((each) => each.layer >= 0 && each.twera !== 0);
  }

  /** The lengths of what is read through each head, as shares of the longest: layer after layer. */
  lengths(feature: number): Float32Array {
    const all = this.page.array(this.at("lengths"), "u1");
    const width = all.length / this.n;
    return Float32Array.from(all.subarray(feature * width, (feature + 1) * width), (x) => x / 255);
  }

  heads(feature: number): Head[] {
    const layers = this.row("heads/layer", feature, "i2");
    const heads = this.row("heads/head", feature, "i2");
    const longest = this.array("longest", "f4")[feature];
    const [shares, perLayer] = [this.lengths(feature), this.headsPerLayer];
    return Array.from(layers, (layer, i) => ({
      layer,
      head: heads[i],
      length: longest * shares[layer * perLayer + heads[i]],
      tokens: this.ranked(`heads${i}/tokens`, feature),
      features: this.others(`heads${i}/features`, feature),
    }));
  }

  get headsPerLayer(): number {
    const { attention } = this.header;
    return attention ? this.page.array(this.at("lengths"), "u1").length / this.n / attention : 0;
  }

  /** Where it is most on, and then bin after bin from the largest. */
  examples(feature: number): { top: Example[]; bins: Bin[] } {
    const offsets = this.array("example/offsets", "u4");
    const group = this.page.array(this.at("example/group"), "u1");
    const n = this.page.array(this.at("bins/count"), "u1")[feature];
    const ends = this.row("bins/ends", feature, "f4");
    const bins = Array.from({ length: n }, (_, i): Bin => ({ low: ends[3 * i], high: ends[3 * i + 1], share: ends[3 * i + 2], examples: [] }));
    const top: Example[] = [];
    for (let i = offsets[feature]; i < offsets[feature + 1]; i++) (group[i] ? bins[group[i] - 1].examples : top).push(this.example(i));
    return { top, bins };
  }

  private example(i: number): Example {
    const kind = this.page.header.arrays[this.at("tokens")].type === "u4" ? "u4" : "u2";
    const start = this.array("example/start", "u4")[i];
    const length = this.page.array(this.at("example/length"), "u1")[i];
    const levels = this.page.array(this.at("example/window"), "u1");
    const { window } = this.header;
    return {
      tokens: this.page.array(this.at("tokens"), kind).subarray(start, start + length),
      levels: levels.subarray(i * window, i * window + length),
      at: this.page.array(this.at("example/at"), "u1")[i],
      value: this.array("example/value", "f4")[i],
    };
  }

  private at(name: string): string {
    return `${this.header.arrays}/${name}`;
  }

  private array(name: string, kind: "u4"): Uint32Array;
  private array(name: string, kind: "f4"): Float32Array;
  private array(name: string, kind: "u4" | "f4"): Uint32Array | Float32Array {
    return this.page.array(this.at(name), kind);
  }
}
