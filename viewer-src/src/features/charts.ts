/** Small pictures: bars, and a map of heads. */

import { largestOf } from "../words";
import { vector } from "../dom";

const WIDTH = 300;
const HEIGHT = 90;
const FOOT = 16;

export interface Bar {
  value: number;
  /** What is said of it when it is pointed at. */
  words: string;
}

/** Bars of equal width, with what stands below the first, the middle and the last. */
export function bars(title: string, values: Bar[], below: [string, string, string], tone = "mild"): SVGElement {
  const most = largestOf(values.map((each) => each.value), 1e-30);
  const step = WIDTH / values.length;
  const y = (value: number) => (value / most) * (HEIGHT - FOOT - 4);
  const places: [number, string][] = [[0, "begin"], [WIDTH / 2, "middle"], [WIDTH, "end"]];
  return vector(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curve bars", role: "img", "aria-label": title },
    ...values.map((each, i) =>
      vector(
        "rect",
        { x: i * step, y: HEIGHT - FOOT - y(each.value), width: Math.max(step - 1, 0.5), height: y(each.value), class: tone },
        vector("title", {}, each.words),
      ),
    ),
    vector("line", { x1: 0, x2: WIDTH, y1: HEIGHT - FOOT, y2: HEIGHT - FOOT, class: "foot" }),
    ...places.map(([x, side], i) => vector("text", { x, y: HEIGHT - 4, class: side }, below[i])),
  );
}

const CELL = 11;
const LEFT = 26;

/** A cell for each head, layers from below; the darker, the larger. */
export function headMap(title: string, values: ArrayLike<number>, perLayer: number, words: (layer: number, head: number) => string): SVGElement {
  const layers = perLayer ? values.length / perLayer : 0;
  const [width, height] = [LEFT + perLayer * CELL, layers * CELL + 12];
  const cells = Array.from(values as ArrayLike<number>, (value, i) => {
    const [layer, head] = [Math.floor(i / perLayer), i % perLayer];
    return vector(
      "rect",
      { x: LEFT + head * CELL, y: (layers - 1 - layer) * CELL, width: CELL - 1, height: CELL - 1, "fill-opacity": (0.06 + 0.94 * value).toFixed(2), class: "mild" },
      vector("title", {}, words(layer, head)),
    );
  });
  const marks = Array.from({ length: layers }, (_, layer) => layer).filter((layer) => layer % 5 === 0 || layer === layers - 1);
  return vector(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, class: "curve heads", role: "img", "aria-label": title },
    ...cells,
    ...marks.map((layer) => vector("text", { x: LEFT - 4, y: (layers - layer) * CELL - 2, class: "end" }, `a${layer}`)),
    vector("text", { x: LEFT, y: height - 2 }, "heads →"),
  );
}
