/** What is looked at among circuits. */

import type { Fragment } from "../store";
import { type Labels, labelsIn, writeLabels } from "../labels";
import type { Show } from "./scene";

export type Tab = "selection" | "examples" | "about";

export interface CircuitState {
  /** Which circuit. */
  run: number;
  /** Nominal size in its ranking; null for the circuit as it was found. */
  size: number | null;
  /** The component chosen, by name. */
  node: string | null;
  edge: number | null;
  /**
   * What it is compared with: the number of another circuit, `found`, the same one as it was found, or `at1413`, the same
   * one at so many edges.
   */
  beside: string | null;
  show: Show;
  /** How many edges are drawn while no component is chosen. */
  lines: number;
  tab: Tab;
  /** People's words for components. */
  labels: Labels;
}

export const LINES = [0, 40, 120, 400] as const;
const SHOWS: readonly Show[] = ["all", "shared", "first", "second"];
const TABS: readonly Tab[] = ["selection", "examples", "about"];

export const BEGIN: CircuitState = {
  run: 0,
  size: null,
  node: null,
  edge: null,
  beside: null,
  show: "all",
  lines: LINES[1],
  tab: "selection",
  labels: new Map(),
};

/**
 * How a state stands in the fragment; `edges` is how many edges each circuit's graph has. A component that is `unknown`
 * to its graph is dropped; labels that the page was `given` are not repeated.
 */
export function fragment(
  edges: number[],
  firstSize: (run: number) => number | null,
  unknown: (run: number, node: string) => boolean,
  given: Labels,
): Fragment<CircuitState> {
  return {
    write(state) {
      const found = new URLSearchParams();
      const put = (name: string, value: string | number | null, begin: string | number | null) => {
        if (value !== null && value !== begin) found.set(name, String(value));
      };
      put("run", state.run, 0);
      put("size", state.size, firstSize(state.run));
      put("node", state.node, null);
      put("edge", state.edge, null);
      put("beside", state.beside, null);
      put("show", state.show, "all");
      put("lines", state.lines, BEGIN.lines);
      put("tab", state.tab, BEGIN.tab);
      writeLabels(found, state.labels, given);
      return found;
    },
    read(found) {
      const run = whole(found.get("run"), edges.length - 1) ?? 0;
      const beside = found.get("beside");
      const node = found.get("node");
      return {
        run,
        size: whole(found.get("size"), edges[run]) ?? firstSize(run),
        node: node !== null && unknown(run, node) ? null : node,
        edge: whole(found.get("edge"), edges[run] - 1),
        beside: beside === "found" || sizeBeside(beside) !== null || whole(beside, edges.length - 1) !== null ? beside : null,
        show: one(SHOWS, found.get("show")) ?? "all",
        lines: one(LINES, Number(found.get("lines") ?? BEGIN.lines)) ?? BEGIN.lines,
        tab: one(TABS, found.get("tab")) ?? BEGIN.tab,
        labels: labelsIn(found, given),
      };
    },
  };
}

/** The edges of the same run's other size in `at1413`; null for anything else. */
export function sizeBeside(beside: string | null): number | null {
  const found = /^at(\d{1,9})$/.exec(beside ?? "");
  return found ? Number(found[1]) : null;
}

function whole(text: string | null, most: number): number | null {
  const value = text === null || text === "" ? NaN : Number(text);
  return Number.isInteger(value) && value >= 0 && value <= most ? value : null;
}

function one<T>(choices: readonly T[], value: unknown): T | null {
  return choices.find((each) => each === value) ?? null;
}
