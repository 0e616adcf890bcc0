/** Where nodes stand: a column for each token, as wide as its fullest layer asks; a row for each layer. */

import type { AttributionGraph } from "./graph";

const LEFT = 46; // room for the layers' numbers
const TOP = 44;
const BOTTOM = 34; // and for the tokens
const LOWEST_ROW = 15;
const HIGHEST_ROW = 80;
const NARROWEST = 13;
const LARGEST_MARK = 5;

export class Layout {
  readonly width: number;
  readonly height: number;
  readonly rowHeight: number;
  readonly rows: number;
  /** The first position with a column: −1 where some nodes have no token. */
  readonly first: number;
  readonly columns: number;
  /** Where each column begins, and the last one ends. */
  readonly starts: Float64Array;
  readonly x: Float32Array;
  readonly y: Float32Array;
  /** Half the width of a mark of each bin, and so of its nodes. */
  readonly radius: Float32Array;
  private readonly binStart: Uint32Array;
  private readonly binNodes: Uint32Array;

  constructor(
    readonly graph: AttributionGraph,
    shown: Uint8Array,
    /** All nodes, the most important first. */
    ranked: Uint32Array,
    available: { width: number; height: number },
    zoom: number,
  ) {
    const { position, layer, tokens } = graph.parts;
    this.first = position.some((p) => p < 0) ? -1 : 0;
    this.columns = Math.max(tokens.length - this.first, 1);
    this.rows = graph.top + 2;
    const fitting = ((available.height - TOP - BOTTOM) / this.rows) * zoom;
    this.rowHeight = Math.max(LOWEST_ROW, Math.min(HIGHEST_ROW * zoom, fitting));
    this.height = Math.ceil(TOP + BOTTOM + this.rows * this.rowHeight);
    const bin = (node: number) => (layer[node] + 1) * this.columns + position[node] - this.first;
    const nodes = ranked.filter((node) => shown[node]);
    this.binStart = new Uint32Array(this.rows * this.columns + 1);
    for (const node of nodes) this.binStart[bin(node) + 1]++;
    this.starts = this.columnStarts((available.width - LEFT - 10) * zoom);
    for (let b = 0; b < this.rows * this.columns; b++) this.binStart[b + 1] += this.binStart[b];
    const next = this.binStart.slice();
    this.binNodes = new Uint32Array(nodes.length);
    for (const node of nodes) this.binNodes[next[bin(node)]++] = node;
    this.width = Math.ceil(this.starts[this.columns] + 10);
    this.x = new Float32Array(graph.n);
    this.y = new Float32Array(graph.n);
    this.radius = new Float32Array(this.rows * this.columns);
    for (let b = 0; b < this.radius.length; b++) this.placeBin(b);
  }

  /** Called while `binStart` still holds each bin's number of nodes. */
  private columnStarts(width: number): Float64Array {
    const fullest = new Float64Array(this.columns).fill(1);
    for (let b = 0; b < this.rows * this.columns; b++) {
      const column = b % this.columns;
      fullest[column] = Math.max(fullest[column], this.binStart[b + 1]);
    }
    const all = fullest.reduce((sum, n) => sum + n, 0);
    const spare = Math.max(width - NARROWEST * this.columns, 0);
    const starts = new Float64Array(this.columns + 1);
    starts[0] = LEFT;
    for (let c = 0; c < this.columns; c++) starts[c + 1] = starts[c] + NARROWEST + (spare * fullest[c]) / all;
    return starts;
  }

  private placeBin(b: number): void {
    const [first, end] = [this.binStart[b], this.binStart[b + 1]];
    const column = b % this.columns;
    const spacing = this.spacing(b);
    const centre = (this.starts[column] + this.starts[column + 1]) / 2;
    const y = this.rowCentre(Math.floor(b / this.columns) - 1);
    this.radius[b] = Math.max(0.6, Math.min(LARGEST_MARK, spacing / 2 - 0.6, this.rowHeight * 0.3));
    for (let i = first; i < end; i++) {
      this.x[this.binNodes[i]] = centre + (i - first - (end - first - 1) / 2) * spacing;
      this.y[this.binNodes[i]] = y;
    }
  }

  private spacing(b: number): number {
    const column = b % this.columns;
    const room = this.starts[column + 1] - this.starts[column] - 3;
    return Math.min(14, room / Math.max(this.binStart[b + 1] - this.binStart[b], 1));
  }

  rowCentre(layer: number): number {
    return TOP + (this.rows - 2 - layer + 0.5) * this.rowHeight;
  }

  /** The nodes of a bin, and the bin's number. */
  bin(layer: number, column: number): Uint32Array {
    const b = (layer + 1) * this.columns + column;
    return this.binNodes.subarray(this.binStart[b], this.binStart[b + 1]);
  }

  markOf(node: number): number {
    return this.radius[(this.graph.parts.layer[node] + 1) * this.columns + this.columnOf(node)];
  }

  columnOf(node: number): number {
    return this.graph.parts.position[node] - this.first;
  }

  /** The column at a place. */
  columnAt(x: number): number {
    let [low, high] = [0, this.columns - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= x) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The layers between two heights. */
  layersBetween(y0: number, y1: number): [number, number] {
    const at = (y: number) => this.rows - 2 - Math.floor((y - TOP) / this.rowHeight);
    return [Math.max(-1, at(y1)), Math.min(this.rows - 2, at(y0))];
  }

  /** The node nearest to a place, within its bin; null where there is none. */
  nodeAt(x: number, y: number): number | null {
    const layer = this.rows - 2 - Math.floor((y - TOP) / this.rowHeight);
    if (layer < -1 || layer > this.rows - 2) return null;
    const nodes = this.bin(layer, this.columnAt(x));
    let [best, least] = [-1, 9];
    for (const node of nodes) {
      const far = Math.abs(this.x[node] - x);
      if (far < least) [best, least] = [node, far];
    }
    return best < 0 ? null : best;
  }
}
