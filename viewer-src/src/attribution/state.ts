/** What is looked at in an attribution graph. */

import type { AttributionGraph } from "./graph";
import { type Fragment, texts } from "../store";
import { type Labels, labelsIn, writeLabels } from "../labels";
import { AMONG, type Among } from "./several";
import type { Group } from "./groups";

export type Tab = "node" | "pinned" | "about";
const TABS: readonly Tab[] = ["node", "pinned", "about"];

export interface GraphState {
  /** Of all influence, in thousandths: nodes beyond it are not shown. */
  threshold: number;
  node: number | null;
  /** An edge, by its number. */
  edge: number | null;
  /** Of several graphs: which edges are listed and drawn. */
  among: Among;
  pinned: ReadonlySet<number>;
  groups: readonly Group[];
  zoom: number;
  tab: Tab;
  labels: Labels;
}

export const ALL = 1000;
const BEGIN = 600; // as Neuronpedia's viewer begins
export const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8] as const;

/** How a state stands in the fragment: nodes by their ids; those that are `unknown` to the graph are dropped. */
export function fragment(graph: AttributionGraph, unknown: (id: string) => void): Fragment<GraphState> {
  const begin = graph.n > 400 ? BEGIN : ALL;
  const known = (ids: (string | null)[]) =>
    ids.map((id) => (id === null ? null : graph.node(id))).filter((node) => node !== null);
  return {
    write(state) {
      const found = new URLSearchParams();
      if (state.threshold !== begin) found.set("influence", String(state.threshold / ALL));
      if (state.node !== null) found.set("node", graph.parts.ids[state.node]);
      if (state.edge !== null) found.set("edge", JSON.stringify([graph.parts.sources[state.edge], graph.targetOf(state.edge)].map((n) => graph.parts.ids[n])));
      if (state.among !== "all") found.set("among", state.among);
      for (const node of state.pinned) found.append("pin", graph.parts.ids[node]);
      for (const [label, nodes] of state.groups) found.append("group", JSON.stringify([label, ...nodes.map((n) => graph.parts.ids[n])]));
      if (state.zoom !== 1) found.set("zoom", String(state.zoom));
      if (state.tab !== "node") found.set("tab", state.tab);
      writeLabels(found, state.labels);
      return found;
    },
    read(found) {
      const influence = Number(found.get("influence") ?? begin / ALL);
      const pinned = new Set(known(found.getAll("pin")));
      const groups = found.getAll("group").map((text) => texts(text)).filter((each) => each.length > 1);
      const taken = new Set<number>();
      const chosen = found.get("node");
      if (chosen !== null && graph.node(chosen) === null) unknown(chosen);
      const ends = known(texts(found.get("edge") ?? ""));
      return {
        threshold: influence >= 0 && influence <= 1 ? Math.round(influence * ALL) : begin,
        node: known([chosen])[0] ?? null,
        edge: ends.length === 2 ? graph.edge(ends[0], ends[1]) : null,
        among: AMONG.find((among) => among === found.get("among")) ?? "all",
        pinned,
        groups: groups.map(([label, ...ids]): Group => {
          const nodes = known(ids).filter((node) => pinned.has(node) && !taken.has(node));
          nodes.forEach((node) => taken.add(node));
          return [label, nodes];
        }).filter((group) => group[1].length > 0),
        zoom: ZOOMS.find((zoom) => String(zoom) === found.get("zoom")) ?? 1,
        tab: TABS.find((tab) => tab === found.get("tab")) ?? "node",
        labels: labelsIn(found),
      };
    },
  };
}
