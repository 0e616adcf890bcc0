/** What is looked at of a set of features: it can be undone, and stands in the address. */

import { type Fragment, texts } from "../store";
import { type Labels, labelsIn, writeLabels } from "../labels";
import type { FeatureSet } from "./set";

export const ORDERS = ["number", "density", "largest", "mean", "token", "label"] as const;
export type Order = (typeof ORDERS)[number];
export const FILTERS = ["all", "on", "labelled", "guessed"] as const;
export type Filter = (typeof FILTERS)[number];
export const VERDICTS = ["right", "mostly", "wrong"] as const;
export type Verdict = (typeof VERDICTS)[number] | "";

/** What a reader said of a feature before its text was shown, and how true it was found. */
export interface Guess {
  words: string;
  verdict: Verdict;
}

export interface FeatureState {
  feature: number | null;
  order: Order;
  /** The order the other way round. */
  reversed: boolean;
  filter: Filter;
  query: string;
  /** Whether a feature's text is hidden until there is a guess. */
  blind: boolean;
  labels: Labels;
  guesses: ReadonlyMap<string, Guess>;
}

/** How a state stands in the fragment; labels that the page came with are not repeated there. */
export function fragment(set: FeatureSet): Fragment<FeatureState> {
  const given = new Map(set.header.labels);
  return {
    write(state) {
      const found = new URLSearchParams();
      if (state.feature !== null) found.set("feature", String(state.feature));
      if (state.order !== "number") found.set("order", state.order);
      if (state.reversed) found.set("reversed", "yes");
      if (state.filter !== "all") found.set("show", state.filter);
      if (state.query) found.set("search", state.query);
      if (state.blind) found.set("blind", "yes");
      writeLabels(found, state.labels, given);
      for (const [name, guess] of state.guesses) found.append("guess", JSON.stringify([name, guess.words, guess.verdict]));
      return found;
    },
    read(found) {
      const feature = Number(found.get("feature") ?? NaN);
      const guesses = found.getAll("guess").map((text) => texts(text, 3)).filter((each) => each.length);
      return {
        feature: Number.isInteger(feature) && feature >= 0 && feature < set.n ? feature : null,
        order: ORDERS.find((each) => each === found.get("order")) ?? "number",
        reversed: found.get("reversed") === "yes",
        filter: FILTERS.find((each) => each === found.get("show")) ?? "all",
        query: found.get("search") ?? "",
        blind: found.get("blind") === "yes",
        labels: labelsIn(found, given),
        guesses: new Map(guesses.map(([name, words, verdict]) => [name, { words, verdict: VERDICTS.find((each) => each === verdict) ?? "" }])),
      };
    },
  };
}
