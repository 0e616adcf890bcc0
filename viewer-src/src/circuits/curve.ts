/** The measured curve beside the slider: values and intervals by size, and where the size looked at stands. */

import { amount, count, percent } from "../words";
import { element, vector } from "../dom";
import type { CircuitHeader, CurvePoint } from "../data";

interface Measurement {
  metric: string;
  points: CurvePoint[];
  full: number;
  empty: number;
  n: number;
  split: string | null;
}

const WIDTH = 400;
const HEIGHT = 150;
const BOX = { left: 44, right: 12, top: 10, bottom: 30 };

/** What was measured: the curve, or the one size that was judged. */
export function measurement(header: CircuitHeader): Measurement | null {
  if (header.curve) return header.curve;
  const judged = header.evaluations.find((each) => each.own);
  if (!judged) return null;
  const name = Object.hasOwn(judged.metrics, "kl") ? "kl" : Object.keys(judged.metrics)[0];
  const row = name === undefined ? undefined : judged.metrics[name];
  if (!name || !row) return null;
  const point: CurvePoint = ["judged", judged.actual, row.value, row.low, row.high];
  return { metric: name, points: [point], full: row.full, empty: row.empty, n: judged.n, split: judged.split };
}

/** What is known of a size, in a sentence. */
export function atSize(measured: Measurement | null, edges: number): string {
  if (!measured) return "Nothing was measured of this circuit: `edgewise evaluate` and `edgewise curve` do that.";
  const points = [...measured.points].sort((a, b) => a[1] - b[1]);
  const exact = points.find((point) => point[1] === edges);
  const split = measured.split ? ` ${measured.split}` : "";
  const where = `on ${count(measured.n)}${split} examples`;
  if (exact) {
    const interval = exact[3] === null || exact[4] === null ? "" : ` (95 %: ${amount(exact[3])} to ${amount(exact[4])})`;
    return `${measured.metric} ${amount(exact[2])}${interval}, measured at this size ${where}.`;
  }
  const below = points.filter((point) => point[1] < edges).at(-1);
  const above = points.find((point) => point[1] > edges);
  const near = [below, above].filter((point) => point !== undefined);
  const said = near.map((point) => `${amount(point[2])} at ${count(point[1])} edges`).join(" and ");
  const place = near.length > 1 ? "between" : below ? "beyond" : "before";
  return `Not measured at this size; ${place} ${measured.metric} ${said} (${where}).`;
}

/** The full model's and the empty circuit's. */
export function ends(measured: Measurement): string {
  return `Full model ${amount(measured.full)}, empty circuit ${amount(measured.empty)}.`;
}

/** The curve as a picture; a click on a measured size calls `choose`. */
export function drawCurve(
  measured: Measurement,
  total: number,
  edges: number,
  choose: (edges: number) => void,
): HTMLElement {
  const values = measured.points.flatMap((point) => point.slice(2).filter((v) => v !== null) as number[]);
  const [low, high] = span([...values, measured.full, measured.empty]);
  const least = Math.max(1, Math.min(edges || 1, ...measured.points.map((point) => point[1])) / 2);
  const x = (n: number) =>
    BOX.left + (Math.log(Math.max(n, least) / least) / Math.log(total / least)) * (WIDTH - BOX.left - BOX.right);
  const y = (value: number) => BOX.top + ((high - value) / (high - low)) * (HEIGHT - BOX.top - BOX.bottom);
  // Large circuits, at the right, are near the full model, and small ones near the empty one: words stand opposite.
  const level = (value: number, name: string, right: boolean) => [
    vector("line", { x1: BOX.left, x2: WIDTH - BOX.right, y1: y(value), y2: y(value), class: "level" }),
    vector("text", { x: right ? WIDTH - BOX.right : BOX.left + 4, y: y(value) + (y(value) < 30 ? 11 : -4), class: right ? "end" : "begin" }, name),
  ];
  const picture = vector(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curve", role: "img", "aria-label": words(measured, total) },
    ...level(measured.full, `full model ${amount(measured.full)}`, false),
    ...level(measured.empty, `empty ${amount(measured.empty)}`, true),
    ...lines(measured, x, y),
    vector("line", { x1: x(edges), x2: x(edges), y1: BOX.top, y2: HEIGHT - BOX.bottom, class: "here" }),
    ...measured.points.flatMap((point) => mark(point, point[1] === edges, x, y, () => choose(point[1]))),
    ...decades(least, total).map((n) =>
      vector("text", { x: x(n), y: HEIGHT - 17, class: "middle" }, count(n)),
    ),
    vector("text", { x: WIDTH / 2, y: HEIGHT - 4, class: "middle" }, "edges (log scale)"),
    vector("text", { x: BOX.left - 5, y: y(high) + 8, class: "end" }, amount(high)),
    vector("text", { x: BOX.left - 5, y: y(low), class: "end" }, amount(low)),
    vector("text", { x: 2, y: HEIGHT / 2 - 8 }, measured.metric),
  );
  return element("div", {}, picture);
}

function lines(measured: Measurement, x: (n: number) => number, y: (value: number) => number): SVGElement[] {
  const methods = [...new Set(measured.points.map((point) => point[0]))];
  return methods.map((method) => {
    const own = measured.points.filter((point) => point[0] === method).sort((a, b) => a[1] - b[1]);
    return vector("polyline", { points: own.map((p) => `${x(p[1])},${y(p[2])}`).join(" "), class: "value" });
  });
}

function mark(
  [method, n, value, low, high]: CurvePoint,
  chosen: boolean,
  x: (n: number) => number,
  y: (value: number) => number,
  choose: () => void,
): SVGElement[] {
  const said = `${method}: ${amount(value)} at ${count(n)} edges`;
  const dot = vector(
    "circle",
    { cx: x(n), cy: y(value), r: chosen ? 6 : 4.5, class: chosen ? "point chosen" : "point", onclick: choose },
    vector("title", {}, said),
  );
  if (low === null || high === null) return [dot];
  return [vector("line", { x1: x(n), x2: x(n), y1: y(low), y2: y(high), class: "interval" }), dot];
}

function span(values: number[]): [number, number] {
  const finite = values.filter(Number.isFinite);
  const low = Math.min(...finite, 0);
  const high = Math.max(...finite, 0);
  return high > low ? [low, high + 0.04 * (high - low)] : [low - 1, high + 1];
}

function decades(least: number, total: number): number[] {
  const found = [];
  for (let n = 1; n <= total; n *= 10) if (n >= least) found.push(n);
  return found;
}

/** The curve for those who do not see it. */
function words(measured: Measurement, total: number): string {
  const points = [...measured.points].sort((a, b) => a[1] - b[1]);
  const said = points.map((p) => `${amount(p[2])} at ${count(p[1])} edges (${percent(1 - p[1] / total)} removed)`);
  return `${measured.metric} by size: ${said.join("; ")}. ${ends(measured)}`;
}
