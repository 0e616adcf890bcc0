/** What a feature reads and what it writes: each from the weights, and beside it from the text. */

import { amount, count, percent, signedAmount } from "../words";
import { type Child, element } from "../dom";
import type { FeatureSet, Head, Other, Ranked } from "./set";
import { bars, headMap } from "./charts";
import { alone } from "./texts";
import { row } from "../rows";

export interface Names {
  /** A feature of any layer in words. */
  words(layer: number, feature: number): string;
  /** Look at it, here or in its own page; null where it has none. */
  go(layer: number, feature: number): (() => void) | null;
}

/** Both sides of a feature. `open`: whether what the text shows may be seen. */
export function sides(set: FeatureSet, feature: number, names: Names, open: boolean): Child[] {
  return [
    side("Input side", "what turns it on", reads(set, feature, names), open ? firesOn(set, feature, names) : covered()),
    side("Output side", "what it does", writes(set, feature, names), open ? comesBefore(set, feature, names) : covered()),
  ];
}

function covered(): Child[] {
  return [element("p", { class: "none" }, "Hidden until you commit to a guess.")];
}

function side(title: string, words: string, weights: Child[], text: Child[]): HTMLElement {
  return element(
    "section",
    { class: "half", "aria-label": title },
    element("h2", {}, title, " ", element("small", {}, words)),
    element("div", { class: "pair-of" }, source("From the weights", weights), source("From the text", text)),
  );
}

function source(title: string, content: Child[]): HTMLElement {
  return element("div", { class: "source" }, element("h3", { class: "from" }, title), ...content);
}

function reads(set: FeatureSet, feature: number, names: Names): Child[] {
  const heads = set.heads(feature);
  const perLayer = set.headsPerLayer;
  const lengths = set.lengths(feature);
  return [
    element("h4", {}, "Tokens that raise it, and that lower it"),
    tokens(set, set.ranked("raising", feature)),
    tokens(set, set.ranked("lowering", feature)),
    ...otherRows("Features of lower layers that it reads", set.others("upstream", feature), names),
    perLayer > 0 && element("h4", {}, "Heads it reads through"),
    perLayer > 0 && headMap("Length of what it reads through each head", lengths, perLayer, (l, h) => `a${l}.h${h}: ${percent(lengths[l * perLayer + h], 0)} of the longest`),
    ...heads.map((head) => through(set, head, names)),
  ];
}

function through(set: FeatureSet, head: Head, names: Names): HTMLElement {
  const features = head.features.slice(0, 3).map((each) => `${names.words(each.layer, each.feature)} ${signedAmount(each.weight)}`);
  return element(
    "div",
    { class: "through" },
    element("p", { class: "quiet" }, element("b", {}, `a${head.layer}.h${head.head}`), ` length ${amount(head.length)}; raised through it by`),
    tokens(set, head.tokens),
    features.length > 0 && element("p", { class: "quiet" }, `and reads ${features.join(", ")}`),
  );
}

function writes(set: FeatureSet, feature: number, names: Names): Child[] {
  const [low, high] = set.row("logit_range", feature, "f4");
  const counts = set.row("logits", feature, "u4");
  const width = (high - low) / counts.length;
  const of = Array.from(counts, (value, i) => ({
    value: Math.log1p(value),
    words: `${count(value)} tokens: ${amount(low + i * width)} to ${amount(low + (i + 1) * width)}`,
  }));
  return [
    element("h4", {}, "Logits that it raises, and that it lowers"),
    tokens(set, set.ranked("promoted", feature)),
    tokens(set, set.ranked("suppressed", feature)),
    bars("What it adds to all tokens' logits; heights on a log scale", of, [amount(low), "logits, log height", amount(high)]),
    ...otherRows("Features of later layers that read it", set.others("downstream", feature), names),
  ];
}

function firesOn(set: FeatureSet, feature: number, names: Names): Child[] {
  const positions = set.row("positions", feature, "u4");
  const step = set.header.context / positions.length;
  const places = Array.from(positions, (value, i) => ({
    value,
    words: `positions ${Math.ceil(i * step)} to ${Math.ceil((i + 1) * step) - 1}: ${count(value)} tokens`,
  }));
  return [
    element("h4", {}, "Tokens at which it is on"),
    shares(set, set.ranked("fires_on", feature)),
    element("h4", {}, "Positions in the row"),
    bars("Positions at which it is on", places, ["0", "", String(set.header.context - 1)]),
    ...virtualRows(set, "inputs", "Features of lower layers that are on with it", feature, names),
  ];
}

function comesBefore(set: FeatureSet, feature: number, names: Names): Child[] {
  return [
    element("h4", {}, "Tokens that come next in the text"),
    shares(set, set.ranked("before", feature)),
    ...virtualRows(set, "outputs", "Features of later layers that are on with it", feature, names),
  ];
}

function tokens(set: FeatureSet, ranked: Ranked[]): HTMLElement {
  if (!ranked.length) return element("p", { class: "none" }, "none");
  return element(
    "p",
    { class: "tokens" },
    ...ranked.map(([token, weight]) =>
      element("span", { class: weight < 0 ? "token-chip below" : "token-chip", title: `${alone(set.texts[token])} ${signedAmount(weight)}` }, element("bdi", {}, alone(set.texts[token]))),
    ),
  );
}

function shares(set: FeatureSet, ranked: Ranked[]): HTMLElement {
  if (!ranked.length) return element("p", { class: "none" }, "none");
  return element(
    "ul",
    { class: "rows" },
    ...ranked.map(([token, share]) =>
      element(
        "li",
        { class: "line" },
        element("bdi", { class: "name" }, alone(set.texts[token])),
        element("meter", { min: 0, max: 1, value: share, "aria-hidden": "true" }),
        element("span", { class: "numbers wide" }, percent(share, 0)),
      ),
    ),
  );
}

function otherRows(title: string, others: Other[], names: Names): Child[] {
  if (!others.length) return [];
  const largest = Math.abs(others[0].weight);
  return [
    element("h4", {}, title),
    element("ul", { class: "rows" }, ...others.map((each) => link(names, each, signedAmount(each.weight), each.weight / largest, null))),
  ];
}

function virtualRows(set: FeatureSet, name: string, title: string, feature: number, names: Names): Child[] {
  if (!set.header.virtual.includes(name)) return [];
  const found = set.virtual(name, feature);
  const largest = Math.abs(found[0]?.twera ?? 1);
  return [
    element("h4", {}, title, " ", element("small", {}, "TWERA")),
    found.length
      ? element(
          "ul",
          { class: "rows" },
          ...found.map((each) => link(names, each, signedAmount(each.twera), each.twera / largest, `connection ${signedAmount(each.weight)}, ERA ${signedAmount(each.era)}`)),
        )
      : element("p", { class: "none" }, "none"),
  ];
}

function link(names: Names, { layer, feature }: Other, numbers: string, share: number, under: string | null): HTMLLIElement {
  const go = names.go(layer, feature);
  const made = row({ words: names.words(layer, feature), numbers, share, under, choose: go ?? (() => undefined) });
  if (!go) made.querySelector("button")!.disabled = true;
  return made;
}
