/** The graph on the screen: one canvas of marks, one of what the pointer is on, and a frame that scrolls over both. */

import { type Box, drawFocus, drawMarks, type View } from "./picture";
import { CanvasSurface } from "../surface";
import { element, fill } from "../dom";
import { Layout } from "./layout";
import { palette } from "../theme";
import type { Picture } from "../files";

/** What the stage shows; a layout is made when what is shown or the room for it changes. */
export interface Shown extends Omit<View, "layout"> {
  /** All nodes, the most important first. */
  ranked: Uint32Array;
  zoom: number;
  node: number | null;
}

export class Stage {
  private readonly marks = element("canvas", {});
  private readonly top = element("canvas", {});
  private readonly frame = element("div", { class: "frame", "aria-hidden": "true" }, this.marks, this.top);
  private readonly space = element("div", { class: "space" });
  private readonly mark = element("div", { class: "chosen-mark", hidden: true });
  private readonly tip = element("div", { class: "tip", hidden: true });
  readonly root = element(
    "div",
    {
      class: "stage graph",
      tabindex: 0,
      role: "application",
      "aria-label": "Graph: tokens from left to right, layers from bottom to top. Arrow keys move from node to node, Enter pins.",
    },
    this.frame,
    this.space,
    this.mark,
    this.tip,
  );
  private shown: Shown | null = null;
  private layout: Layout | null = null;
  private hovered: number | null = null;
  private waiting = false;

  constructor(
    private readonly choose: (node: number | null) => void,
    private readonly pin: (node: number) => void,
  ) {
    new ResizeObserver(() => this.arrange()).observe(this.root);
    this.root.addEventListener("scroll", () => this.redraw());
    this.root.addEventListener("pointermove", (event) => this.hover(this.at(event)));
    this.root.addEventListener("pointerleave", () => this.hover(null));
    this.root.addEventListener("click", (event) => this.click(event));
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  show(shown: Shown): void {
    const before = this.shown;
    this.shown = shown;
    if (this.hovered !== null && !shown.shown[this.hovered]) {
      this.hovered = null;
      this.tip.hidden = true;
    }
    const same = before && before.graph === shown.graph && before.shown === shown.shown && before.zoom === shown.zoom;
    if (!same || !this.layout) this.arrange();
    else this.redrawTop();
    this.placeMark();
    if (shown.node !== before?.node) this.bringIntoView();
  }

  /** Draw again, as after a change of colours. */
  redraw(): void {
    this.draw(this.marks, (surface, view, box) => drawMarks(surface, view, box, palette()));
    this.redrawTop();
  }

  picture(): Picture | null {
    const view = this.view();
    if (!view) return null;
    const { width, height } = view.layout;
    return {
      width,
      height,
      draw: (surface) => {
        drawMarks(surface, view, { x: 0, y: 0, width, height }, palette());
        drawFocus(surface, view, this.shown!.node, palette());
      },
    };
  }

  private view(): View | null {
    return this.shown && this.layout && { ...this.shown, layout: this.layout };
  }

  private redrawTop(): void {
    const node = this.hovered ?? this.shown?.node ?? null;
    this.draw(this.top, (surface, view) => drawFocus(surface, view, node, palette()));
  }

  private draw(canvas: HTMLCanvasElement, how: (surface: CanvasSurface, view: View, box: Box) => void): void {
    const view = this.view();
    if (!view) return;
    const scale = devicePixelRatio || 1;
    const [width, height] = [this.root.clientWidth, this.root.clientHeight];
    if (canvas.width !== width * scale || canvas.height !== height * scale) {
      canvas.width = width * scale;
      canvas.height = height * scale;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d")!;
    const { scrollLeft: x, scrollTop: y } = this.root;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.translate(-x, -y);
    how(new CanvasSurface(context), view, { x, y, width, height });
  }

  private arrange(): void {
    const { shown } = this;
    if (!shown || !this.root.clientWidth) return;
    const available = { width: this.root.clientWidth, height: this.root.clientHeight };
    this.layout = new Layout(shown.graph, shown.shown, shown.ranked, available, shown.zoom);
    this.space.style.width = `${this.layout.width}px`;
    this.space.style.height = `${this.layout.height}px`;
    this.placeMark();
    this.redraw();
  }

  /** An element where the chosen node stands, so that it is not in the canvas alone. */
  private placeMark(): void {
    const { shown, layout } = this;
    const node = shown?.node ?? null;
    this.mark.hidden = node === null || !layout || !shown?.shown[node];
    if (this.mark.hidden) return;
    this.mark.style.left = `${layout!.x[node!] - 4}px`;
    this.mark.style.top = `${layout!.y[node!] - 4}px`;
  }

  /** What a click has chosen stays where it was clicked; of what was chosen elsewhere, show where it stands. */
  private bringIntoView(): void {
    if (document.activeElement !== this.root) this.reveal();
  }

  private reveal(): void {
    if (!this.mark.hidden) this.mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  private at(event: MouseEvent): number | null {
    if (!this.layout) return null;
    const frame = this.root.getBoundingClientRect();
    const x = event.clientX - frame.left + this.root.scrollLeft;
    return this.layout.nodeAt(x, event.clientY - frame.top + this.root.scrollTop);
  }

  private hover(node: number | null): void {
    if (node === this.hovered) return;
    this.hovered = node;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.redrawTop();
      this.showTip();
    });
  }

  private showTip(): void {
    const { hovered, layout, shown } = this;
    this.tip.hidden = hovered === null || !layout || !shown;
    if (this.tip.hidden) return;
    fill(this.tip, `${shown!.label(hovered!)} · ${shown!.graph.describe(hovered!)}`);
    const left = Math.min(layout!.x[hovered!] + 12, this.root.scrollLeft + this.root.clientWidth - 270);
    this.tip.style.left = `${Math.max(left, this.root.scrollLeft + 4)}px`;
    this.tip.style.top = `${layout!.y[hovered!] + 12}px`;
  }

  private click(event: MouseEvent): void {
    const node = this.at(event);
    if (node !== null && (event.ctrlKey || event.metaKey || event.shiftKey)) this.pin(node);
    else this.choose(node === this.shown?.node ? null : node);
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const node = this.shown?.node ?? null;
    if (event.key === "Enter" && node !== null) this.pin(node);
    else if (event.key.startsWith("Arrow")) {
      this.choose(this.neighbour(node, event.key) ?? node);
      this.reveal();
    } else return;
    event.preventDefault();
  }

  /** The next node in a direction; the first output where none is chosen. */
  private neighbour(node: number | null, key: string): number | null {
    const { layout, shown } = this;
    if (!layout || !shown) return null;
    const { graph } = shown;
    if (node === null || !shown.shown[node]) return this.firstIn(graph.top, layout.columns - 1, -1, 0);
    const layer = graph.parts.layer[node];
    const column = layout.columnOf(node);
    if (key === "ArrowUp") return this.firstIn(layer + 1, column, 0, 1);
    if (key === "ArrowDown") return this.firstIn(layer - 1, column, 0, -1);
    const nodes = Array.from(layout.bin(layer, column));
    const step = key === "ArrowRight" ? 1 : -1;
    return nodes[nodes.indexOf(node) + step] ?? this.firstIn(layer, column + step, step, 0);
  }

  private firstIn(layer: number, column: number, across: number, up: number): number | null {
    const { layout } = this;
    for (let [l, c] = [layer, column]; l >= -1 && l <= layout!.rows - 2 && c >= 0 && c < layout!.columns; l += up, c += across) {
      const nodes = layout!.bin(l, c);
      if (nodes.length) return across < 0 ? nodes[nodes.length - 1] : nodes[0];
    }
    return null;
  }
}
