/** The panel's examples: those that the circuit is worst at, and what model and circuit predict. */

import { type Child, element } from "../dom";
import type { Circuit, Ranking } from "../ranking";
import type { EvaluationHeader, PredictionHeader, WorstExample } from "../data";
import { count, percent, quote, several } from "../words";
import { MEASURES, canMeasure } from "./evidence";
import { scoreWords } from "./picture";

/** The judged examples on which the circuit as found is farthest from the model, and whether that is the one looked at. */
export function examples(ranking: Ranking, circuit: Circuit): Child[] {
  const { header } = ranking;
  const of = (measured: number) => !ranking.isFound(circuit) && otherEdges(measured, circuit.edges.length);
  const told = header.evidence?.predictions ?? [];
  const untold = !header.evidence && canMeasure(ranking.graph);
  if (!header.evaluations.length && !told.length) {
    return [element("p", {}, "No examples: `edgewise evaluate` judges a circuit and names those that it is worst at.")];
  }
  const judged = header.evaluations.flatMap((each) => [
    element("h2", {}, each.name ? `Judged on ${each.name}` : "Judged", of(each.actual)),
    metrics(each),
    each.worst.length > 0 && element("h3", {}, "Examples on which the circuit is farthest from the model"),
    each.worst.length > 0 && !each.name && untold && element("p", { class: "fact" }, UNTOLD),
    element("ol", { class: "examples" }, ...each.worst.map((one) => example(one, each.name ? undefined : told.find(({ number }) => number === one.number)))),
  ]);
  const worst = new Set(header.evaluations.filter((each) => !each.name).flatMap((each) => each.worst.map((one) => one.number)));
  const others = told.filter((each) => !worst.has(each.number));
  return [...judged, others.length > 0 && element("h2", {}, "What model and circuit predict", of(header.actual)), ...others.map(prediction)];
}

const UNTOLD = `What circuit and model predict here, and the right answer, were not measured: ${MEASURES} adds them.`;

/** Beside a title: that what follows is of another circuit than the one that is looked at. */
function otherEdges(measured: number, edges: number): HTMLElement {
  const now = measured === edges ? "as many others" : count(edges);
  return element("small", { class: "size-note" }, ` measured at ${several(measured, "edge")}; you look at ${now}`);
}

function prediction(each: PredictionHeader): HTMLElement {
  return element(
    "section",
    { class: "examples", "aria-label": `Example ${each.number}` },
    element("p", { class: "numbers" }, `example ${each.number}`),
    element("p", {}, element("b", {}, "clean "), ...marked(each.clean, each.corrupted)),
    element("p", {}, element("b", {}, "corrupted "), ...marked(each.corrupted, each.clean)),
    predicted(each),
  );
}

/** The likeliest next tokens of model and circuit. */
function predicted(each: PredictionHeader): HTMLElement {
  const best = each.model.map(([token, share], i) =>
    element("tr", {}, ...[said(token, share, each.answers), said(...each.circuit[i], each.answers)].flat()),
  );
  const heads = ["model", "", "circuit", ""].map((name) => element("th", { scope: "col", class: name && "token" }, name));
  const right = element("p", {}, element("b", {}, each.answers.length > 1 ? "right answers " : "right answer "), each.answers.map(quote).join(", "));
  const table = element(
    "table",
    { "aria-label": `Predictions on example ${each.number}` },
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...best),
  );
  return element("div", {}, right, table);
}

function said(token: string, share: number, answers: string[]): HTMLElement[] {
  const right = answers.includes(token);
  return [element("td", { class: right ? "token right" : "token" }, `${quote(token)}${right ? " ✓" : ""}`), element("td", {}, percent(share))];
}

/** Words or tokens, those marked that are others in the twin. */
function marked(words: string[], others: string[]): Child[] {
  return words.map((word, i) => (word === others[i] ? word : element("mark", {}, word)));
}

function example(each: WorstExample, told: PredictionHeader | undefined): HTMLElement {
  const clean = each.clean.split(/(\s+)/);
  const corrupted = each.corrupted.split(/(\s+)/);
  return element(
    "li",
    {},
    element("p", { class: "numbers" }, `example ${each.number}, distance ${scoreWords(each.distance)}`),
    element("p", {}, element("b", {}, "clean "), ...marked(clean, corrupted)),
    element("p", {}, element("b", {}, "corrupted "), ...marked(corrupted, clean)),
    told && predicted(told),
  );
}

function metrics(each: EvaluationHeader): HTMLElement {
  const cell = (value: number | null) => element("td", {}, value === null ? "" : scoreWords(value));
  const rows = Object.entries(each.metrics).map(([name, row]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, `${name.replaceAll("_", " ")} ${row.lower_is_better ? "↓" : "↑"}`),
      element("td", { title: row.low === null || row.high === null ? null : `95 %: ${scoreWords(row.low)} to ${scoreWords(row.high)}` }, scoreWords(row.value)),
      ...[row.full, row.empty, row.random, row.eap].map(cell),
    ),
  );
  const heads = ["", "circuit", "full", "empty", "random", "EAP"].map((name) => element("th", { scope: "col" }, name));
  const said = `${several(each.n, each.split ? `${each.split} example` : "example")}, a circuit of ${several(each.actual, "actual edge")}`;
  return element(
    "table",
    {},
    element("caption", {}, said),
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...rows),
  );
}
