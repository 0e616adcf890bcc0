/** The measured curve beside the slider: values and intervals by size, and where the size looked at stands. */

import { amount, count, largestOf, percent, several, smallestOf } from "../words";
import { element, vector } from "../dom";
import type { Circuit, Ranking } from "../ranking";
import type { CircuitHeader, CurveHeader, CurvePoint } from "../data";

/** The method of the point that is the circuit as found, judged by itself. */
export const JUDGED = "judged";
const WIDTH = 400;
const HEIGHT = 150;
const BEFORE = 30; // the scale: room for circuits of no edges
const BOX = { left: 44, right: 12, top: 10, bottom: 30 };

/** What was measured of a run's sizes: the curve, with the circuit that was judged where it is one of them; or that alone. */
export function measured(ranking: Ranking, circuit: Circuit): CurveHeader | null {
  const { header, foundAt } = ranking;
  const { curve } = header;
  const own = judgement(header);
  if (!curve || !own) return curve ?? own;
  const [point] = own.points;
  const isOne = foundAt === null ? ranking.isFound(circuit) : !curve.points.some((each) => each[1] === point[1]);
  return isOne && own.metric === curve.metric && own.split === curve.split ? { ...curve, points: [...curve.points, point] } : curve;
}

/** The one circuit that was judged, by the curve's metric where it has that. */
function judgement(header: CircuitHeader): CurveHeader | null {
  const judged = header.evaluations.find((each) => each.own);
  if (!judged) return null;
  const { metrics, actual, n, split } = judged;
  const metric = [header.curve?.metric, "kl", ...Object.keys(metrics)].find((name) => name !== undefined && Object.hasOwn(metrics, name));
  if (metric === undefined) return null;
  const { value, low, high, full, empty } = metrics[metric];
  return { metric, points: [[JUDGED, actual, value, low, high]], full, empty, n, split };
}

/** What is known of a circuit: in a sentence, what that rests on, and the circuit's own point if it was measured. */
interface Known {
  words: string;
  from: CurveHeader | null;
  point: CurvePoint | null;
}

/** What is known of a circuit: as many edges are not the same ones where it is no size of its run's ranking. */
export function known(ranking: Ranking, circuit: Circuit): Known {
  const { header, foundAt } = ranking;
  const { curve } = header;
  const edges = circuit.edges.length;
  const own = judgement(header);
  const isSize = circuit.nominal !== null || foundAt !== null || !ranking.order;
  const ofCurve = isSize ? curve?.points.find((each) => each[1] === edges) : undefined;
  if (curve && ofCurve) return { words: exactly(curve, ofCurve), from: curve, point: ofCurve };
  if (own && ranking.isFound(circuit)) return { words: exactly(own, own.points[0]), from: own, point: own.points[0] };
  const from = measured(ranking, circuit);
  const words = from ? nearby(from, edges) : "Nothing was measured of this circuit: `edgewise evaluate` and `edgewise curve` do that.";
  return { words, from, point: null };
}

function where({ n, split }: CurveHeader): string {
  return `on ${several(n, split ? `${split} example` : "example")}`;
}

function exactly(from: CurveHeader, [, , value, low, high]: CurvePoint): string {
  const interval = low === null || high === null ? "" : ` (95 %: ${amount(low)} to ${amount(high)})`;
  return `${from.metric} ${amount(value)}${interval}, measured at this size ${where(from)}.`;
}

function nearby(from: CurveHeader, edges: number): string {
  const points = [...from.points].sort((a, b) => a[1] - b[1]);
  const other = points.find((point) => point[1] === edges);
  if (other) return `Not measured of these edges; as many others have ${from.metric} ${amount(other[2])} (${where(from)}).`;
  const below = points.filter((point) => point[1] < edges).at(-1);
  const above = points.find((point) => point[1] > edges);
  const near = [below, above].filter((point) => point !== undefined);
  const said = near.map((point) => `${amount(point[2])} at ${count(point[1])} edges`).join(" and ");
  const place = near.length > 1 ? "between" : below ? "beyond" : "before";
  return `Not measured at this size; ${place} ${from.metric} ${said} (${where(from)}).`;
}

/** The full model's and the empty circuit's. */
export function ends(measured: CurveHeader): string {
  return `Full model ${amount(measured.full)}, empty circuit ${amount(measured.empty)}.`;
}

/** The curve as a picture, with the size looked at, and its own point if it has one; a click on a measured one calls `choose`. */
export function drawCurve(
  measured: CurveHeader,
  total: number,
  edges: number,
  own: CurvePoint | null,
  choose: (point: CurvePoint) => void,
): HTMLElement {
  const values = measured.points.flatMap((point) => point.slice(2).filter((v) => v !== null) as number[]);
  const [low, high] = span([...values, measured.full, measured.empty]);
  const sizes = [edges, ...measured.points.map((point) => point[1])];
  const least = Math.max(1, smallestOf(sizes.filter((n) => n > 0), total) / 2);
  // An empty circuit has no place on the scale: it stands before it.
  const begin = BOX.left + (sizes.includes(0) ? BEFORE : 0);
  const x = (n: number) => (n ? begin + (Math.log(Math.max(n, least) / least) / Math.log(total / least)) * (WIDTH - begin - BOX.right) : BOX.left + 6);
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
    ...measured.points.flatMap((point) => mark(point, point[0] === own?.[0] && point[1] === own[1], x, y, () => choose(point))),
    ...[...(sizes.includes(0) ? [0] : []), ...decades(least, total)].map((n) =>
      vector("text", { x: x(n), y: HEIGHT - 17, class: "middle" }, count(n)),
    ),
    vector("text", { x: WIDTH / 2, y: HEIGHT - 4, class: "middle" }, "edges (log scale)"),
    vector("text", { x: BOX.left - 5, y: y(high) + 8, class: "end" }, amount(high)),
    vector("text", { x: BOX.left - 5, y: y(low), class: "end" }, amount(low)),
    vector("text", { x: 2, y: HEIGHT / 2 - 8 }, measured.metric),
  );
  return element("div", {}, picture);
}

function lines(measured: CurveHeader, x: (n: number) => number, y: (value: number) => number): SVGElement[] {
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
  const low = smallestOf(finite, 0);
  const high = largestOf(finite, 0);
  return high > low ? [low, high + 0.04 * (high - low)] : [low - 1, high + 1];
}

function decades(least: number, total: number): number[] {
  const found = [];
  for (let n = 1; n <= total; n *= 10) if (n >= least) found.push(n);
  return found;
}

/** The curve for those who do not see it. */
function words(measured: CurveHeader, total: number): string {
  const points = [...measured.points].sort((a, b) => a[1] - b[1]);
  const said = points.map((p) => `${amount(p[2])} at ${count(p[1])} edges (${percent(1 - p[1] / total)} removed)`);
  return `${measured.metric} by size: ${said.join("; ")}. ${ends(measured)}`;
}
