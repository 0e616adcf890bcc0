/** Draws an attribution graph: all that is shown as marks, and on top of them the edges of what is chosen. */

import { type AttributionGraph, BIAS, ERROR, FEATURE, isInnerKind, type Neighbour, NEURON, NODES, ROOT } from "./graph";
import type { Layout } from "./layout";
import type { Palette } from "../theme";
import type { Surface } from "../surface";
import { clipped, visible } from "../words";

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface View {
  graph: AttributionGraph;
  layout: Layout;
  shown: Uint8Array;
  title: string;
  pinned: ReadonlySet<number>;
  /** The one edge that is chosen. */
  edge: Drawn | null;
  /** The edges that are drawn while nothing is chosen or pinned. */
  atRest: readonly Drawn[];
  /** Whether an edge is one of those asked for, by its number. */
  isAmong(edge: number): boolean;
  label(node: number): string;
}

const MOST_LINES = 160; // in each direction: the lists have them all
const NARROW = 26; // columns too narrow for their token's text are numbered instead

/** The marks, the layers and the tokens within a box. */
export function drawMarks(s: Surface, view: View, box: Box, p: Palette): void {
  const { layout } = view;
  s.box(box.x, box.y, box.width, box.height, { fill: p.paper });
  const [low, high] = layout.layersBetween(box.y, box.y + box.height);
  const [left, right] = [layout.columnAt(box.x), layout.columnAt(box.x + box.width)];
  for (let column = left; column <= right; column++) {
    if (column % 2) s.box(layout.starts[column], 44, layout.starts[column + 1] - layout.starts[column], layout.height - 44, { fill: p.panel });
  }
  for (let layer = low; layer <= high; layer++) {
    const y = layout.rowCentre(layer);
    s.line(box.x, y, box.x + box.width, y, { stroke: p.faint, width: 1, opacity: 0.5 });
    for (let column = left; column <= right; column++) drawBin(s, view, layer, column, p);
  }
  drawWords(s, view, box, p);
}

function drawBin(s: Surface, view: View, layer: number, column: number, p: Palette): void {
  const { layout, graph } = view;
  const nodes = layout.bin(layer, column);
  if (!nodes.length) return;
  const byLook = new Map<number, number[]>();
  for (const node of nodes) {
    const kind = graph.parts.kind[node];
    const points = byLook.get(kind) ?? [];
    points.push(layout.x[node], layout.y[node]);
    byLook.set(kind, points);
  }
  const radius = layout.markOf(nodes[0]);
  for (const [kind, points] of byLook) {
    s.marks(points, kind === ERROR ? radius * 0.7 : radius, isInnerKind(kind), colourOf(kind, p));
  }
}

/** The colour of a kind of node. */
function colourOf(kind: number, p: Palette): string {
  if (kind === FEATURE || kind === NODES) return p.accent;
  if (kind === NEURON) return p.value;
  if (kind === ERROR) return p.shared;
  if (kind === BIAS) return p.mlp;
  return kind === ROOT ? p.second : p.ink;
}

function drawWords(s: Surface, view: View, box: Box, p: Palette): void {
  const { layout, graph } = view;
  const { tokens } = graph.parts;
  const [low, high] = layout.layersBetween(box.y, box.y + box.height);
  for (let layer = low; layer <= high; layer++) {
    const name = layer < 0 ? "token" : layer === graph.top ? "output" : String(layer);
    s.text(box.x + 40, layout.rowCentre(layer), name, { fill: p.quiet, size: 10, anchor: "end" });
  }
  const y = Math.min(layout.height, box.y + box.height) - 12;
  s.box(box.x, y - 12, box.width, 26, { fill: p.paper });
  for (let column = layout.columnAt(box.x); column <= layout.columnAt(box.x + box.width); column++) {
    const [start, end] = [layout.starts[column], layout.starts[column + 1]];
    const token = column + layout.first < 0 ? "–" : (tokens[column + layout.first] ?? "");
    const room = Math.floor((end - start - 2) / 6.2);
    const number = column + layout.first;
    const words = end - start < NARROW ? (number % 5 ? "" : String(number)) : clipped(visible(token), room);
    s.text((start + end) / 2, y, words, { fill: p.ink, size: 11, anchor: "middle" });
  }
  s.box(box.x, box.y, box.width, 40, { fill: p.paper });
  s.text(box.x + 8, box.y + 12, view.title, { fill: p.ink, size: 13, bold: true });
  drawKey(s, view, box.x + 14, box.y + 31, p);
}

/** The edges of a node (those between pinned nodes where none is chosen), and a ring on each that matters. */
export function drawFocus(s: Surface, view: View, node: number | null, p: Palette): void {
  const { layout, shown } = view;
  const lines = linesOf(view, node);
  const most = lines.reduce((found, line) => Math.max(found, line[3]), 1e-30);
  for (const [source, target, weight, size] of [...lines].reverse()) {
    const strength = size / most;
    const look = { stroke: weight < 0 ? p.negative : p.positive, width: 0.5 + 3 * Math.sqrt(strength), opacity: 0.25 + 0.7 * strength };
    const [x0, y0, x1, y1] = [layout.x[source], layout.y[source], layout.x[target], layout.y[target]];
    const bend = Math.abs(y0 - y1) * 0.45;
    s.curve([x0, y0, x0, y0 - bend, x1, y1 + bend, x1, y1], look);
  }
  for (const each of view.pinned) if (shown[each]) ring(s, layout, each, p.accent, 2);
  if (node !== null && shown[node]) ring(s, layout, node, p.ink, 2.5);
  for (const each of view.pinned) if (shown[each]) drawLabel(s, view, each, p);
}

function linesOf(view: View, node: number | null): readonly Drawn[] {
  const { graph, shown, edge } = view;
  if (node !== null && !shown[node]) return []; // it stands nowhere
  if (node === null) return view.pinned.size ? betweenPinned(view) : view.atRest;
  if (edge?.[1] === node) return shown[edge[0]] ? [edge] : [];
  return [
    ...among(view, graph.inputs(node, shown)).slice(0, MOST_LINES).map(([source, w]) => drawn(graph, source, node, w)),
    ...among(view, graph.outputs(node, shown)).slice(0, MOST_LINES).map(([target, w]) => drawn(graph, node, target, w)),
  ];
}

function among(view: View, found: Neighbour[]): Neighbour[] {
  return found.filter((each) => view.isAmong(each[2]));
}

/** Source, target, weight, and how strongly the line is drawn beside the others. */
export type Drawn = readonly [number, number, number, number];

/** An edge to be drawn as the share that it is of its target's inputs: weights into different targets differ in unit. */
export function drawn(graph: AttributionGraph, source: number, target: number, weight: number): Drawn {
  return [source, target, weight, Math.abs(weight) / (graph.inputSize[target] || 1)];
}

const KEY: [number, string][] = [
  [ROOT, "output"],
  [FEATURE, "feature"],
  [NEURON, "neuron"],
  [NODES, "nodes of a layer"],
  [ERROR, "error"],
  [BIAS, "bias"],
];

function drawKey(s: Surface, view: View, x: number, y: number, p: Palette): void {
  for (const [kind, name] of KEY) {
    if (!view.graph.parts.kind.includes(kind)) continue;
    s.marks([x, y], kind === ERROR ? 3.5 : 5, isInnerKind(kind), colourOf(kind, p));
    s.text(x + 10, y, name, { fill: p.quiet, size: 11 });
    x += 30 + 6.2 * name.length;
  }
  const [above, below] = view.graph.parts.extras.several?.kind === "difference" ? ["more in A", "more in B"] : ["adds", "takes away"];
  for (const [stroke, name] of [[p.positive, above], [p.negative, below]] as const) {
    s.line(x - 6, y, x + 10, y, { stroke, width: 3 });
    s.text(x + 15, y, name, { fill: p.quiet, size: 11 });
    x += 42 + 6 * name.length;
  }
}

function betweenPinned(view: View): Drawn[] {
  const flags = new Uint8Array(view.graph.n);
  for (const node of view.pinned) flags[node] = view.shown[node];
  return [...view.pinned].flatMap((target) => among(view, view.graph.inputs(target, flags)).map(([source, w]) => drawn(view.graph, source, target, w)));
}

function ring(s: Surface, layout: Layout, node: number, stroke: string, width: number): void {
  const r = layout.markOf(node) + 2.5;
  s.box(layout.x[node] - r, layout.y[node] - r, 2 * r, 2 * r, { stroke, width, radius: r });
}

function drawLabel(s: Surface, view: View, node: number, p: Palette): void {
  const words = clipped(view.label(node), 18);
  const [x, y] = [view.layout.x[node], view.layout.y[node] - view.layout.markOf(node) - 9];
  s.box(x - words.length * 3 - 3, y - 7, words.length * 6 + 6, 14, { fill: p.paper, opacity: 0.85, radius: 3 });
  s.text(x, y, words, { fill: p.ink, size: 10, anchor: "middle" });
}
