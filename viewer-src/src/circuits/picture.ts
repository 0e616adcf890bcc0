/** Draws a scene: how busy each component is, and the edges of what is chosen (or the strongest of all). */

import { amount, clipped, count, largestOf, smallestOf } from "../words";
import type { CurvePoints, Layout } from "./layout";
import { type Component, KEY, LOGITS, QUERY, VALUE } from "../graph";
import type { Line, Surface } from "../surface";
import { type Palette, readable } from "../theme";
import type { Scene } from "./scene";

export interface Focus {
  /** The component whose edges are drawn. */
  node: Component | null;
  edge: number | null;
  /** How many edges are drawn while there is none. */
  lines: number;
}

export interface Words {
  title: string;
  label(component: Component): string | undefined;
}

const MOST_LINES = 600; // of one component: more would be a blot, and the list has them all
const THINNEST = 0.7;
const WIDEST = 3.6;
const SMALLEST = 8; // letters
const ASIDE = 14; // beyond its box that a label may go
const LEAST = 90; // width of a label, if it needs it
const LETTER = 0.62; // mean width of a letter, for its height
const FAINTEST = 0.07; // of a cell that takes part

export function drawScene(s: Surface, scene: Scene, layout: Layout, focus: Focus, words: Words, p: Palette): void {
  s.box(0, 0, layout.width, layout.height, { fill: p.paper });
  const drawn = edgesToDraw(scene, focus);
  const ends = endsOf(scene, drawn);
  drawFrame(s, scene, layout, words, p);
  for (const c of scene.graph.components) if (!takesPart(scene, c)) drawCell(s, scene, layout, c, ends, focus, words, p);
  const strength = strengths(scene, drawn);
  for (let i = drawn.length - 1; i >= 0; i--) {
    const edge = drawn[i];
    s.curve(pathOf(scene, layout, edge), lineOf(scene, edge, strength[i], edge === focus.edge, p));
  }
  for (const c of scene.graph.components) if (takesPart(scene, c)) drawCell(s, scene, layout, c, ends, focus, words, p);
  for (const c of scene.graph.components) drawLabel(s, scene, layout, c, words, p);
}

function edgesToDraw(scene: Scene, focus: Focus): number[] {
  if (focus.node !== null) {
    const own = [...scene.into(focus.node), ...scene.outOf(focus.node)];
    const most = own.length > MOST_LINES ? strongest(scene, own, MOST_LINES) : own;
    return focus.edge !== null && !most.includes(focus.edge) ? [...most, focus.edge] : most;
  }
  const first = atRest(scene, focus.lines);
  return focus.edge !== null && !first.includes(focus.edge) ? [focus.edge, ...first] : first;
}

/** The strongest edges; of two circuits as many that both have as only one of them has. */
function atRest(scene: Scene, lines: number): number[] {
  if (!scene.other) return leading(scene, scene.edges, lines);
  const sides = ["shared", "first", "second"] as const;
  return sides.flatMap((side) => leading(scene, scene.edges.filter((e) => scene.side(e) === side), Math.ceil(lines / 3)));
}

/** The first of edges in the order of the ranking; without one, as many from all layers alike. */
function leading(scene: Scene, edges: Scene["edges"], most: number): number[] {
  if (scene.ranking.rank || edges.length <= most) return Array.from(edges.subarray(0, most));
  return Array.from({ length: most }, (_, i) => edges[Math.floor(((i + 0.5) * edges.length) / most)]);
}

function strongest(scene: Scene, edges: number[], most: number): number[] {
  const rank = (edge: number) => scene.rank(edge) ?? scene.graph.nEdges;
  return [...edges].sort((a, b) => rank(a) - rank(b)).slice(0, most);
}

function endsOf(scene: Scene, edges: number[]): Set<Component> {
  const found = new Set<Component>();
  for (const edge of edges) {
    found.add(scene.graph.writerOf(edge));
    for (const component of scene.graph.fed[scene.graph.readerOf(edge)]) found.add(component);
  }
  return found;
}

function pathOf(scene: Scene, layout: Layout, edge: number): CurvePoints {
  return layout.curve(scene.graph.writerOf(edge), scene.graph.readerOf(edge));
}

/** Between 0 and 1, by the score among those drawn of the same ranking, as that ranks: by its size, or from the lowest. */
function strengths(scene: Scene, edges: number[]): number[] {
  const found = new Array<number>(edges.length).fill(0.4);
  for (const ranking of new Set(edges.map((edge) => scene.rankingOf(edge)))) {
    const places = [...edges.keys()].filter((i) => scene.rankingOf(edges[i]) === ranking && Number.isFinite(ranking.scores?.[edges[i]]));
    const sizes = places.map((i) => (ranking.header.absolute ? Math.abs(ranking.scores![edges[i]]) : ranking.scores![edges[i]]));
    const [most, least] = [largestOf(sizes, -Infinity), smallestOf(sizes, Infinity)];
    if (most > least) places.forEach((i, n) => (found[i] = (sizes[n] - least) / (most - least)));
  }
  return found;
}

function lineOf(scene: Scene, edge: number, strength: number, chosen: boolean, p: Palette): Line {
  const width = THINNEST + (WIDEST - THINNEST) * strength;
  const stroke = colour(scene, edge, p);
  return chosen ? { stroke, width: width + 2.5, opacity: 1 } : { stroke, width, opacity: 0.35 + 0.55 * strength };
}

/** Which colour an edge has, and what each colour says. */
export function colour(scene: Scene, edge: number, p: Palette): string {
  if (scene.other) return p[scene.side(edge)];
  if (scene.ranking.header.signed) return (scene.score(edge) ?? 0) < 0 ? p.negative : p.positive;
  const kind = scene.graph.readerKind[scene.graph.readerOf(edge)];
  if (kind === QUERY) return p.query;
  if (kind === KEY) return p.key;
  if (kind === VALUE) return p.value;
  return kind === LOGITS ? p.logits : p.mlp;
}

export function legend(scene: Scene, p: Palette): [string, string][] {
  if (scene.other) {
    return [
      [`both (${count(scene.sizes.shared)})`, p.shared],
      [`only A (${count(scene.sizes.first)})`, p.first],
      [`only B (${count(scene.sizes.second)})`, p.second],
    ];
  }
  if (scene.ranking.header.signed) {
    return [
      ["score above 0", p.positive],
      ["below 0", p.negative],
    ];
  }
  return [
    ["into q", p.query],
    ["k", p.key],
    ["v", p.value],
    [["MLP", scene.graph.header.apart].filter(Boolean).join(", "), p.mlp],
    ["logits", p.logits],
  ];
}

function takesPart(scene: Scene, c: Component): boolean {
  return scene.meeting(c) > 0;
}

function drawFrame(s: Surface, scene: Scene, layout: Layout, words: Words, p: Palette): void {
  s.text(8, 12, words.title, { fill: p.ink, size: 13, bold: true });
  let x = 8;
  for (const [name, ink] of legend(scene, p)) {
    s.line(x, 31, x + 16, 31, { stroke: ink, width: 3 });
    s.text(x + 20, 31, name, { fill: p.quiet, size: 11 });
    x += 30 + 6.2 * name.length;
  }
  for (let column = 0; column < layout.columns; column++) {
    const look = { fill: p.quiet, size: 10, anchor: "middle" as const };
    s.text(layout.columnCentre(column), 49, layout.heading(column), look);
  }
  for (let layer = 0; layer < scene.graph.header.layers; layer++) {
    s.text(28, layout.rowCentre(layer), String(layer), { fill: p.quiet, size: 10, anchor: "end" });
  }
}

function drawCell(
  s: Surface,
  scene: Scene,
  layout: Layout,
  c: Component,
  ends: Set<Component>,
  focus: Focus,
  words: Words,
  p: Palette,
): void {
  const { x, y, width, height } = layout.cell(c);
  const edges = scene.meeting(c);
  const depth = edges ? FAINTEST + (1 - FAINTEST) * Math.sqrt(edges / Math.max(scene.busiest, 1)) : 0;
  s.box(x, y, width, height, { fill: p.paper, radius: 3 });
  const chosen = c === focus.node;
  const aside = focus.node !== null && !ends.has(c);
  const stroke = chosen ? p.accent : ends.has(c) && focus.node !== null ? p.ink : p.faint;
  const opacity = depth * (aside ? 0.25 : 0.8);
  const fill = scene.writes[c] ? p.accent : p.quiet; // grey: what it reads goes nowhere
  s.box(x, y, width, height, { fill, opacity, stroke, width: chosen ? 2.5 : 1, radius: 3 });
  if (!edges || height < 9 || words.label(c)) return;
  const name = scene.graph.name(c);
  const [text, size] = fitting([name, short(name), place(name)], width - 2, Math.min(11, height - 2));
  if (text) s.text(x + width / 2, y + height / 2, text, { fill: aside ? p.quiet : readable(p, fill, opacity), size, anchor: "middle" });
}

/** A person's label on its box, after the name; a long one is cut, where the next box begins or there is no room at all. */
function drawLabel(s: Surface, scene: Scene, layout: Layout, c: Component, words: Words, p: Palette): void {
  const label = words.label(c);
  if (!label) return;
  const { x, y, width, height } = layout.cell(c);
  const size = Math.min(9, Math.max(SMALLEST, height - 3));
  const most = Math.floor((Math.max(width + ASIDE, LEAST) - 6) / (size * LETTER));
  const text = clipped(`${short(scene.graph.name(c))} ${label}`, most);
  const wide = Math.max(width, Array.from(text).length * size * LETTER + 6);
  const left = Math.max(2, Math.min(layout.width - wide - 2, x + width / 2 - wide / 2));
  s.box(left, y, wide, height, { fill: p.paper, stroke: p.accent, width: 1, radius: 3 });
  s.text(left + wide / 2, y + height / 2, text, { fill: p.ink, size, anchor: "middle" });
}

/** A head as `9.3`; a feature, neuron or rest without its layer, which its row says, but for a place in a later one. */
function short(name: string): string {
  return name.replace(/^a(\d+)\.h(\d+)$/, "$1.$2").replace(/^m\d+\.([a-z0-9+]+)$/, "$1").replace(/>\d+$/, "");
}

/** `>17` for what feature 17 of an earlier layer writes to the row's. */
function place(name: string): string | undefined {
  const found = /f(\d+)>\d+$/.exec(name);
  return found ? `>${found[1]}` : undefined;
}

/** The first of some texts that fits, at this size or else at the smallest that can be read. */
function fitting(choices: (string | undefined)[], width: number, largest: number): [string | undefined, number] {
  for (const size of [largest, SMALLEST]) {
    const found = choices.find((text) => text && text.length * size * LETTER <= width);
    if (found) return [found, size];
  }
  return [undefined, largest];
}

/** What is said of a component's edges. */
export function tally(scene: Scene, c: Component): string {
  return `${count(scene.inputs[c])} edges in, ${count(scene.outputs[c])} out`;
}

/** An edge's score in words. */
export function scoreWords(score: number | null): string {
  return score === null ? "no score" : amount(score);
}
