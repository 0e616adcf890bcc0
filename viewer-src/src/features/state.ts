/** What is looked at of a set of features: it can be undone, and stands in the address. */

import type { Fragment } from "../store";
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
  labels: ReadonlyMap<string, string>;
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
      for (const [name, label] of state.labels) if (given.get(name) !== label) found.append("label", JSON.stringify([name, label]));
      for (const name of given.keys()) if (!state.labels.has(name)) found.append("label", JSON.stringify([name, ""]));
      for (const [name, guess] of state.guesses) found.append("guess", JSON.stringify([name, guess.words, guess.verdict]));
      return found;
    },
    read(found) {
      const feature = Number(found.get("feature") ?? NaN);
      const labels = new Map(given);
      for (const [name, label] of found.getAll("label").map((text) => texts(text, 2))) {
        if (label) labels.set(name, label);
        else labels.delete(name);
      }
      const guesses = found.getAll("guess").map((text) => texts(text, 3)).filter((each) => each.length);
      return {
        feature: Number.isInteger(feature) && feature >= 0 && feature < set.n ? feature : null,
        order: ORDERS.find((each) => each === found.get("order")) ?? "number",
        reversed: found.get("reversed") === "yes",
        filter: FILTERS.find((each) => each === found.get("show")) ?? "all",
        query: found.get("search") ?? "",
        blind: found.get("blind") === "yes",
        labels,
        guesses: new Map(guesses.map(([name, words, verdict]) => [name, { words, verdict: VERDICTS.find((each) => each === verdict) ?? "" }])),
      };
    },
  };
}

/** A JSON list of so many texts; an empty one for anything else. */
function texts(text: string, n: number): string[] {
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) && value.length === n && value.every((each) => typeof each === "string") ? value : [];
  } catch {
    return [];
  }
}
