/** The picture on the screen, and a button on each component: to click, to tab to, to be read aloud. */

import { CanvasSurface, type Surface } from "../surface";
import { button, element, fill } from "../dom";
import { drawScene, type Focus, tally, type Words } from "./picture";
import type { Component } from "../graph";
import { Layout } from "./layout";
import { palette } from "../theme";
import { type Picture, scaleFor } from "../files";
import type { Scene } from "./scene";

const MOVES = new Map([
  ["ArrowUp", [0, -1]],
  ["ArrowDown", [0, 1]],
  ["ArrowLeft", [-1, 0]],
  ["ArrowRight", [1, 0]],
] as const) as ReadonlyMap<string, readonly [number, number]>;

export class Stage {
  readonly root = element("div", { class: "stage" });
  /** As wide as is seen of the picture: of a wide one it stays where it is while the rest scrolls. */
  private readonly canvas = element("canvas", { "aria-hidden": "true" });
  private readonly cells = element("div", { role: "group", "aria-label": "Components: layers from bottom to top. Arrow keys move." });
  private readonly paper = element("div", { class: "paper" }, this.canvas, this.cells);
  private layout: Layout | null = null;
  private scene: Scene | null = null;
  private focus: Focus = { node: null, edge: null, lines: 0 };
  private words: Words = { title: "", label: () => undefined };
  private drawnAt = 0; // how far the picture was scrolled when it was drawn
  private hovered: Component | null = null;
  private buttons: HTMLButtonElement[] = [];

  constructor(private readonly choose: (node: Component | null) => void) {
    this.root.append(this.paper);
    this.root.addEventListener("scroll", () => this.isWide() && this.root.scrollLeft !== this.drawnAt && this.redraw());
    this.cells.addEventListener("keydown", (event) => this.move(event));
    new ResizeObserver(() => this.resize()).observe(this.root);
  }

  show(scene: Scene, focus: Focus, words: Words): void {
    const graphChanged = scene.graph !== this.scene?.graph;
    Object.assign(this, { scene, focus, words });
    if (graphChanged) this.resize();
    else this.redraw();
    this.nameButtons();
  }

  /** Draw again, as after a change of colours. */
  redraw(): void {
    const picture = this.picture();
    if (!picture) return;
    const { height } = picture;
    const width = this.isWide() ? this.root.clientWidth : picture.width;
    const scale = scaleFor({ width, height }, devicePixelRatio || 1);
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const context = this.canvas.getContext("2d")!;
    context.scale(scale, scale);
    this.drawnAt = this.root.scrollLeft;
    if (this.isWide()) context.translate(-this.drawnAt, 0);
    picture.draw(new CanvasSurface(context));
  }

  /** Whether the picture is wider than what is seen of it: that alone is drawn, as a canvas can be only so wide. */
  private isWide(): boolean {
    return !!this.layout && !!this.root.clientWidth && this.layout.width > this.root.clientWidth;
  }

  /** What is seen, to be saved. */
  picture(): Picture | null {
    const { layout, scene, words } = this;
    if (!layout || !scene) return null;
    const node = this.hovered ?? this.focus.node;
    const draw = (surface: Surface) => drawScene(surface, scene, layout, { ...this.focus, node }, words, palette());
    return { width: layout.width, height: layout.height, draw };
  }

  private resize(): void {
    if (!this.scene) return;
    const available = { width: this.root.clientWidth, height: this.root.clientHeight };
    this.layout = new Layout(this.scene.graph, available, this.scene.ranking.found);
    this.paper.style.width = `${this.layout.width}px`;
    this.placeButtons();
    this.nameButtons();
    this.redraw();
  }

  private placeButtons(): void {
    const { scene, layout } = this;
    if (!scene || !layout) return;
    this.buttons = scene.graph.components.map((c) => {
      const made = button("", () => this.choose(c === this.focus.node ? null : c), { "data-name": scene.graph.name(c) });
      const { x, y, width, height } = layout.cell(c);
      made.style.left = `${x}px`;
      made.style.top = `${y}px`;
      made.style.width = `${width}px`;
      made.style.height = `${height}px`;
      made.addEventListener("pointerenter", () => this.hover(c));
      made.addEventListener("pointerleave", () => this.hover(null));
      return made;
    });
    fill(this.cells, ...this.buttons);
  }

  private nameButtons(): void {
    const { scene } = this;
    if (!scene) return;
    const entry = this.focus.node ?? scene.graph.logits;
    this.buttons.forEach((each, c) => {
      const label = this.words.label(c);
      const name = `${scene.graph.name(c)}${label ? `, ${label}` : ""}: ${tally(scene, c)}`;
      each.title = name;
      each.setAttribute("aria-label", name);
      each.setAttribute("aria-pressed", String(c === this.focus.node));
      each.tabIndex = c === entry ? 0 : -1;
    });
  }

  private hover(c: Component | null): void {
    this.hovered = c;
    this.redraw();
  }

  /** To the nearest component in a direction. */
  private move(event: KeyboardEvent): void {
    const step = MOVES.get(event.key);
    const here = this.buttons.indexOf(document.activeElement as HTMLButtonElement);
    if (!step || here < 0 || !this.layout) return;
    event.preventDefault();
    const from = this.layout.cell(here);
    let [best, least] = [here, Infinity];
    for (const c of this.buttons.keys()) {
      const to = this.layout.cell(c);
      const dx = to.x + to.width / 2 - from.x - from.width / 2;
      const dy = to.y + to.height / 2 - from.y - from.height / 2;
      const along = dx * step[0] + dy * step[1];
      const aside = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
      const far = along + 4 * aside;
      if (along > 1 && (step[0] === 0 || aside < 1) && far < least) [best, least] = [c, far];
    }
    this.buttons[here].tabIndex = -1;
    this.buttons[best].tabIndex = 0;
    this.buttons[best].focus();
  }
}
