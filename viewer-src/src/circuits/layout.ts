/** Where components stand: layers from bottom to top, heads from left to right, MLPs or their features at the right. */

import { type Component, type Graph, KEY, QUERY, VALUE } from "../graph";
import type { Circuit } from "../ranking";
import { largestOf } from "../words";

export interface Cell {
  x: number;
  y: number;
  width: number;
  height: number;
}

export type CurvePoints = readonly [number, number, number, number, number, number, number, number];

const LEFT = 34; // room for the layers' numbers
const TOP = 58; // and for the title, the legend and the heads' numbers
const LOWEST_ROW = 19;
const NARROWEST = 21;
const NAMED = 49; // where MLPs are taken apart: room for `f18431`
const WIDEST = 92;
const ROOM = 0.35; // columns between heads and MLPs
const PORTS = new Map([
  [QUERY, 0.2],
  [KEY, 0.5],
  [VALUE, 0.8],
]);

export class Layout {
  readonly width: number;
  readonly height: number;
  readonly columns: number;
  readonly rowHeight: number;
  readonly columnWidth: number;
  private readonly place: Uint16Array;

  constructor(
    readonly graph: Graph,
    available: { width: number; height: number },
    found: Circuit,
  ) {
    const { heads, layers } = graph.header;
    this.place = columnsOf(graph, found);
    this.columns = largestOf(this.place, heads) + 1;
    const rows = layers + 2;
    this.rowHeight = Math.max(LOWEST_ROW, Math.min(44, (available.height - TOP) / rows));
    const fitting = (available.width - LEFT - 8) / (this.columns + ROOM);
    this.columnWidth = Math.max(graph.header.apart ? NAMED : NARROWEST, Math.min(WIDEST, fitting));
    this.width = Math.ceil(Math.max(available.width, LEFT + 8 + this.columnWidth * (this.columns + ROOM)));
    this.height = Math.ceil(TOP + rows * this.rowHeight);
  }

  cell(component: Component): Cell {
    const { graph, columnWidth, rowHeight } = this;
    const alone = component === graph.logits || graph.writerLayer[component] < 0;
    const width = alone ? Math.max(56, columnWidth * 0.7) : columnWidth - Math.min(columnWidth * 0.35, 18);
    const height = rowHeight * 0.68;
    const x = alone ? this.middle(component, width) : this.columnCentre(this.place[component]);
    return { x: x - width / 2, y: this.rowCentre(graph.layer(component)) - height / 2, width, height };
  }

  /** The logits and embeddings stand in the middle, two embeddings side by side. */
  private middle(component: Component, width: number): number {
    const { heads, embeddings } = this.graph.header;
    const beside = component === this.graph.logits ? 0 : this.place[component] - (embeddings - 1) / 2;
    return LEFT + (this.columnWidth * (heads + 1)) / 2 + beside * (width + 12);
  }

  /** The middle of a column; those from the number of heads on are the MLPs'. */
  columnCentre(column: number): number {
    const gap = column >= this.graph.header.heads ? ROOM : 0;
    return LEFT + this.columnWidth * (column + gap + 0.5);
  }

  /** The middle of a layer's row; layer −1 is the embeddings'. */
  rowCentre(layer: number): number {
    return TOP + (this.graph.header.layers - layer + 0.5) * this.rowHeight;
  }

  /** The way of an edge: out of the top of its writer into the bottom of its reader. */
  curve(writer: Component, reader: number): CurvePoints {
    const from = this.cell(writer);
    const fed = this.graph.readBy(reader);
    const to = this.cell(fed[Math.floor((fed.length - 1) / 2)]);
    const last = this.cell(fed[fed.length - 1]);
    if (from.y === to.y) {
      const [x0, x1, y] = [from.x + from.width, to.x, from.y + from.height / 2];
      return [x0, y, x0 + (x1 - x0) / 3, y - from.height / 2, x1 - (x1 - x0) / 3, y - from.height / 2, x1, y];
    }
    const port = PORTS.get(this.graph.readerKind[reader]) ?? 0.5;
    const end = fed.length > 1 ? (this.cell(fed[0]).x + last.x + last.width) / 2 + (port - 0.5) * to.width : to.x + port * to.width;
    const [x0, y0, y1] = [from.x + from.width / 2, from.y, to.y + to.height];
    const bend = Math.min(0.5 * (y0 - y1) + 6, 4 * this.rowHeight);
    return [x0, y0, x0, y0 - bend, end, y1 + bend, end, y1];
  }

  /** The heading of a column. */
  heading(column: number): string {
    const { heads } = this.graph.header;
    if (column < heads) return this.columnWidth > 40 ? `head ${column}` : `h${column}`;
    if (this.columns === heads + 1) return "MLP";
    return column === heads ? this.graph.header.apart : "";
  }
}

/**
 * Each component's column. Of what stands in an MLP's place, what is left of the MLP comes first, then the components of
 * the circuit as it was found, then all others.
 */
function columnsOf(graph: Graph, found: Circuit): Uint16Array {
  const used = new Set<Component>();
  for (const edge of found.edges) for (const c of [graph.writerOf(edge), ...graph.readBy(graph.readerOf(edge))]) used.add(c);
  const turn = (w: number) => (graph.isRest(w) ? 0 : used.has(w) ? 1 : 2);
  const columns = new Uint16Array(graph.nWriters + 1);
  const next = new Map<number, number>();
  for (const now of [0, 1, 2]) {
    for (let w = 0; w < graph.nWriters; w++) {
      const layer = graph.writerLayer[w];
      const head = graph.writerHead[w];
      if ((layer < 0 || head >= 0 ? 0 : turn(w)) !== now) continue;
      const place = next.get(layer) ?? (layer < 0 ? 0 : graph.header.heads);
      columns[w] = head >= 0 ? head : place;
      if (head < 0) next.set(layer, place + 1);
    }
  }
  return columns;
}
