/** Contexts in which a feature is on: the stronger, the darker. */

import { amount, percent } from "../words";
import { type Child, element } from "../dom";
import type { Example, FeatureSet } from "./set";
import { inARow } from "./texts";

const SHADES = 8; // of the style sheet
const OPEN = 4; // bins whose examples are shown at once

export function examplesOf(set: FeatureSet, feature: number): Child[] {
  const { top, bins } = set.examples(feature);
  const largest = set.max[feature];
  const shown = (each: Example) => context(set, each, largest);
  if (!top.length) return [element("p", { class: "none" }, "On at no token of the text.")];
  return [
    element("h3", {}, "Where it is most on"),
    element("ul", { class: "contexts" }, ...top.map(shown)),
    element("h3", {}, "Over the range of its activations"),
    element("p", { class: "quiet" }, "A random sample of all tokens at which it is on, cut into bins of equal share."),
    ...bins.map((bin, i) =>
      element(
        "details",
        { open: i < OPEN || i === bins.length - 1 },
        element("summary", {}, `${amount(bin.low)} to ${amount(bin.high)} (${percent(bin.share, 0)})`),
        element("ul", { class: "contexts" }, ...bin.examples.map(shown)),
      ),
    ),
  ];
}

function context(set: FeatureSet, example: Example, largest: number): HTMLLIElement {
  const texts = inARow(Array.from(example.tokens, (token) => set.texts[token]));
  const words = texts.map((text, i) => {
    const level = example.levels[i];
    const shade = level && Math.max(1, Math.round((level / 255) * SHADES));
    const value = i === example.at ? example.value : (level / 255) * largest;
    const marked = `${shade ? `shade shade${shade}` : ""}${i === example.at ? " here" : ""}`.trim();
    return marked ? element("span", { class: marked, title: level ? amount(value) : null }, text) : text;
  });
  return element("li", {}, element("span", { class: "numbers" }, amount(example.value)), element("bdi", { class: "words", dir: "auto" }, ...words));
}
