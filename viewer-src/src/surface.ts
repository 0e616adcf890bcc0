/** Where a picture is drawn: on a canvas to be seen, or into SVG to be saved. Both have the same four strokes. */

import { unturned } from "./words";

export interface Line {
  stroke: string;
  width: number;
  opacity?: number;
  dash?: number[];
}

export interface Fill {
  fill?: string;
  opacity?: number;
  stroke?: string;
  width?: number;
  radius?: number;
}

export interface Lettering {
  fill: string;
  size: number;
  anchor?: "start" | "middle" | "end";
  bold?: boolean;
}

const SMALLEST_DISC = 1.5; // a smaller one is seen as a square, which is drawn faster
const FONT = "system-ui, sans-serif";

export interface Surface {
  box(x: number, y: number, width: number, height: number, look: Fill): void;
  /** From one point to another, by way of two that it bends towards. */
  curve(points: readonly [number, number, number, number, number, number, number, number], look: Line): void;
  line(x0: number, y0: number, x1: number, y1: number, look: Line): void;
  /** Many squares or discs of one colour: x and y by turns. */
  marks(points: ArrayLike<number>, radius: number, round: boolean, fill: string): void;
  /** Text whose middle is at this height. */
  text(x: number, y: number, words: string, look: Lettering): void;
}

export class CanvasSurface implements Surface {
  constructor(private readonly context: CanvasRenderingContext2D) {}

  box(x: number, y: number, width: number, height: number, look: Fill): void {
    const c = this.context;
    c.beginPath();
    c.roundRect(x, y, width, height, look.radius ?? 0);
    c.globalAlpha = look.opacity ?? 1;
    if (look.fill) {
      c.fillStyle = look.fill;
      c.fill();
    }
    c.globalAlpha = 1;
    if (look.stroke) {
      c.strokeStyle = look.stroke;
      c.lineWidth = look.width ?? 1;
      c.stroke();
    }
  }

  curve(points: readonly [number, number, number, number, number, number, number, number], look: Line): void {
    const [x0, y0, x1, y1, x2, y2, x3, y3] = points;
    this.context.beginPath();
    this.context.moveTo(x0, y0);
    this.context.bezierCurveTo(x1, y1, x2, y2, x3, y3);
    this.stroke(look);
  }

  line(x0: number, y0: number, x1: number, y1: number, look: Line): void {
    this.context.beginPath();
    this.context.moveTo(x0, y0);
    this.context.lineTo(x1, y1);
    this.stroke(look);
  }

  marks(points: ArrayLike<number>, radius: number, round: boolean, fill: string): void {
    const c = this.context;
    c.fillStyle = fill;
    if (!round || radius < SMALLEST_DISC) {
      for (let i = 0; i < points.length; i += 2) c.fillRect(points[i] - radius, points[i + 1] - radius, 2 * radius, 2 * radius);
      return;
    }
    c.beginPath();
    for (let i = 0; i < points.length; i += 2) {
      c.moveTo(points[i] + radius, points[i + 1]);
      c.arc(points[i], points[i + 1], radius, 0, 2 * Math.PI);
    }
    c.fill();
  }

  text(x: number, y: number, words: string, look: Lettering): void {
    const c = this.context;
    c.font = `${look.bold ? "600 " : ""}${look.size}px ${FONT}`;
    c.textAlign = look.anchor === "middle" ? "center" : (look.anchor ?? "start");
    c.textBaseline = "middle";
    c.fillStyle = look.fill;
    c.fillText(unturned(words), x, y);
  }

  private stroke(look: Line): void {
    const c = this.context;
    c.globalAlpha = look.opacity ?? 1;
    c.strokeStyle = look.stroke;
    c.lineWidth = look.width;
    c.setLineDash(look.dash ?? []);
    c.stroke();
    c.globalAlpha = 1;
  }
}

/** Strokes as the text of an SVG file. */
export class SvgSurface implements Surface {
  private readonly parts: string[] = [];

  constructor(
    private readonly width: number,
    private readonly height: number,
  ) {}

  box(x: number, y: number, width: number, height: number, look: Fill): void {
    const fill = look.fill ? `fill="${escaped(look.fill)}" fill-opacity="${look.opacity ?? 1}"` : 'fill="none"';
    const stroke = look.stroke ? ` stroke="${escaped(look.stroke)}" stroke-width="${look.width ?? 1}"` : "";
    const place = `x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}"`;
    this.parts.push(`<rect ${place} rx="${look.radius ?? 0}" ${fill}${stroke}/>`);
  }

  curve(points: readonly [number, number, number, number, number, number, number, number], look: Line): void {
    const [x0, y0, ...rest] = points.map(round);
    this.parts.push(`<path d="M${x0} ${y0}C${rest.join(" ")}" fill="none" ${strokes(look)}/>`);
  }

  line(x0: number, y0: number, x1: number, y1: number, look: Line): void {
    this.parts.push(`<line x1="${round(x0)}" y1="${round(y0)}" x2="${round(x1)}" y2="${round(y1)}" ${strokes(look)}/>`);
  }

  marks(points: ArrayLike<number>, radius: number, rounded: boolean, fill: string): void {
    const [r, d] = [round(radius), round(2 * radius)];
    const parts: string[] = [];
    for (let i = 0; i < points.length; i += 2) {
      const [x, y] = [round(points[i] - radius), round(points[i + 1] - radius)];
      parts.push(`<rect x="${x}" y="${y}" width="${d}" height="${d}"${rounded ? ` rx="${r}"` : ""}/>`);
    }
    this.parts.push(`<g fill="${escaped(fill)}">${parts.join("")}</g>`);
  }

  text(x: number, y: number, words: string, look: Lettering): void {
    const weight = look.bold ? ' font-weight="600"' : "";
    this.parts.push(
      `<text x="${round(x)}" y="${round(y)}" font-size="${look.size}"${weight} fill="${escaped(look.fill)}" ` +
        `text-anchor="${look.anchor ?? "start"}" dominant-baseline="central">${escaped(unturned(words))}</text>`,
    );
  }

  toString(): string {
    const size = `width="${this.width}" height="${this.height}" viewBox="0 0 ${this.width} ${this.height}"`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="${FONT}">\n${this.parts.join("\n")}\n</svg>\n`;
  }
}

function strokes(look: Line): string {
  const dash = look.dash?.length ? ` stroke-dasharray="${look.dash.join(" ")}"` : "";
  return `stroke="${escaped(look.stroke)}" stroke-width="${round(look.width)}" stroke-opacity="${look.opacity ?? 1}"${dash}`;
}

function round(x: number): number {
  return Math.round(x * 100) / 100;
}

const ENTITIES: ReadonlyMap<string, string> = new Map([
  ["&", "&amp;"],
  ["<", "&lt;"],
  [">", "&gt;"],
  ['"', "&quot;"],
]);

function escaped(text: string): string {
  // What XML 1.0 has no place for goes; the rest that means something becomes an entity.
  return text.replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "�").replace(/[&<>"]/g, (c) => ENTITIES.get(c)!);
}
