/** The size of the circuit: a slider over one ranking, the measured sizes, and the measured curve. */

import { drawCurve, ends, JUDGED, known, measured } from "./curve";
import { button, element, fill } from "../dom";
import { count, percent } from "../words";
import type { Circuit, Ranking } from "../ranking";
import type { CurvePoint } from "../data";

const STEPS = 1000;

export class SizePanel {
  readonly root = element("section", { class: "size", "aria-label": "Size of the circuit" });
  private readonly range = element("input", { type: "range", min: 0, max: STEPS, step: 1, "aria-label": "Edges asked for" });
  private readonly typed = element("input", { type: "number", min: 0, step: 1, "aria-label": "Actual edges, at most" });
  private readonly said = element("p", { class: "said" });
  private readonly fact = element("p", { class: "fact" });
  private readonly sizes = element("div", { class: "chips", role: "group", "aria-label": "Measured sizes" });
  private readonly curve = element("div", {});
  private ranking: Ranking | null = null;

  constructor(private readonly choose: (size: number | null) => void) {
    this.range.addEventListener("input", () => this.ranking && choose(this.nominal(Number(this.range.value))));
    this.typed.addEventListener("change", () => {
      if (this.typed.value === "") this.typed.value = this.typed.defaultValue; // emptied, or no number: as it was
      else if (this.ranking) {
        const asked = Number(this.typed.value);
        this.typed.value = this.typed.defaultValue; // if the nearest circuit is the one already shown, nothing redraws the field
        choose(this.ranking.largest(asked));
      }
    });
    const line = element("div", { class: "line" }, this.range, this.typed);
    this.root.append(this.said, line, this.sizes, this.curve, this.fact);
  }

  show(ranking: Ranking, circuit: Circuit): void {
    if (ranking !== this.ranking) this.enter(ranking);
    const edges = circuit.edges.length;
    const total = ranking.graph.nEdges;
    const share = percent(1 - edges / total);
    fill(this.said, element("b", {}, count(edges)), ` of ${count(total)} edges: ${share} removed`);
    const nominal = circuit.nominal ?? edges;
    // Several of the first places are one size: the slider stays where it was put.
    if (this.nominal(Number(this.range.value)) !== nominal) this.range.value = String(this.place(nominal));
    this.range.setAttribute("aria-valuetext", `${count(edges)} of ${count(total)} edges, ${share} removed`);
    this.typed.value = this.typed.defaultValue = String(edges);
    const { words, from, point } = known(ranking, circuit);
    const curve = measured(ranking, circuit);
    this.fact.textContent = words + (from ? ` ${ends(from)}` : "");
    this.curve.hidden = !curve;
    if (curve) fill(this.curve, drawCurve(curve, total, edges, point, (each) => this.choosePoint(each)));
    this.sizes.querySelectorAll("button").forEach((chip, i) => {
      const isIt = i === 0 ? ranking.isFound(circuit) : circuit.nominal !== null && chip.dataset.edges === String(edges);
      chip.setAttribute("aria-pressed", String(isIt));
    });
  }

  /** The size some steps of the slider further. */
  step(by: number): void {
    if (!this.ranking?.order) return;
    this.range.value = String(Math.max(0, Math.min(STEPS, Number(this.range.value) + by)));
    this.choose(this.nominal(Number(this.range.value)));
  }

  private enter(ranking: Ranking): void {
    this.ranking = ranking;
    this.range.disabled = this.typed.disabled = !ranking.order;
    const sizes = ranking.order ? ranking.measuredSizes() : [];
    const found = ranking.found.edges.length;
    const total = ranking.graph.nEdges;
    fill(
      this.sizes,
      ranking.order && button("as found", () => this.choose(ranking.foundAt), { title: `${count(found)} edges` }),
      ...sizes.map((n) => button(percent(1 - n / total), () => this.choose(ranking.largest(n)), { "data-edges": n, title: `${count(n)} edges` })),
      !ranking.order && element("span", { class: "none" }, "This circuit has no scores, so there is no other size of it."),
    );
  }

  private choosePoint([method, edges]: CurvePoint): void {
    if (this.ranking?.order) this.choose(method === JUDGED ? this.ranking.foundAt : this.ranking.largest(edges));
  }

  /** The slider runs over the logarithm of the size; its first step is the empty circuit. */
  private nominal(place: number): number {
    return place === 0 ? 0 : Math.round(Math.exp((place / STEPS) * Math.log(this.ranking!.graph.nEdges)));
  }

  private place(nominal: number): number {
    return nominal < 1 ? 0 : Math.round((STEPS * Math.log(nominal)) / Math.log(this.ranking!.graph.nEdges));
  }
}
