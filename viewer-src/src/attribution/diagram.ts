/** The pinned sub-graph as boxes: supernodes and nodes by layer, and the summed edges between them. */

import { amount, arrow, clipped, largestOf, signedAmount, smallestOf } from "../words";
import type { Block, Flow } from "./groups";
import { element, vector } from "../dom";
import type { AttributionGraph } from "./graph";

const WIDTH = 416;
const ROW = 62;
const BOX = { width: 96, height: 24 };
const MOST = 60; // edges drawn

export function diagram(
  graph: AttributionGraph,
  blocks: readonly Block[],
  sums: readonly Flow[],
  name: (block: Block) => string,
  choose: (node: number) => void,
): HTMLElement {
  const places = placed(graph, blocks);
  const height = largestOf(places.map(([, y]) => y), 0) + BOX.height + 12;
  const most = Math.abs(sums[0]?.weight ?? 1) || 1;
  const lines = sums.slice(0, MOST).map((flow) => {
    const [[x0, y0], [x1, y1]] = [places[flow.from], places[flow.to]];
    const strength = Math.abs(flow.weight) / most;
    return vector(
      "line",
      {
        x1: x0,
        y1: y0 - BOX.height / 2,
        x2: x1,
        y2: y1 + BOX.height / 2,
        "stroke-width": 0.6 + 3.4 * strength,
        "stroke-opacity": 0.3 + 0.6 * strength,
        class: flow.weight < 0 ? "below" : "above",
      },
      vector("title", {}, `${arrow(name(blocks[flow.from]), name(blocks[flow.to]))}: ${signedAmount(flow.weight)}`),
    );
  });
  const boxes = blocks.map((block, b) => {
    const [x, y] = places[b];
    const words = name(block);
    return vector(
      "g",
      { onclick: () => choose(block.nodes[0]), class: block.label ? "supernode" : "node" },
      vector("rect", { x: x - BOX.width / 2, y: y - BOX.height / 2, width: BOX.width, height: BOX.height, rx: 5 }),
      vector("text", { x, y: y + 4, class: "middle" }, clipped(words, 15)),
      vector("title", {}, `${words}: ${block.nodes.map((node) => graph.parts.ids[node]).join(", ")}`),
    );
  });
  const said = `${blocks.length} blocks; the largest edge ${amount(most)}`;
  return element(
    "div",
    {},
    vector("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "diagram", role: "img", "aria-label": said }, ...lines, ...boxes),
  );
}

/** The middle of each block: rows by lowest layer from bottom to top, in each from left to right by token. */
function placed(graph: AttributionGraph, blocks: readonly Block[]): [number, number][] {
  const { layer, position } = graph.parts;
  const level = (block: Block) => smallestOf(block.nodes.map((node) => layer[node]), Infinity);
  const along = (block: Block) => block.nodes.reduce((sum, node) => sum + position[node], 0) / block.nodes.length;
  const rows: number[][] = [];
  const most = Math.floor(WIDTH / (BOX.width + 6));
  for (const layerOf of [...new Set(blocks.map(level))].sort((a, b) => b - a)) {
    const row = [...blocks.keys()].filter((b) => level(blocks[b]) === layerOf).sort((a, b) => along(blocks[a]) - along(blocks[b]));
    for (let i = 0; i < row.length; i += most) rows.push(row.slice(i, i + most));
  }
  const found = new Array<[number, number]>(blocks.length);
  rows.forEach((row, r) =>
    row.forEach((b, i) => (found[b] = [((i + 0.5) * WIDTH) / row.length, r * ROW + BOX.height / 2 + 4])),
  );
  return found;
}
