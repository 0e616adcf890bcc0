/** The panel beside the picture: what is chosen, in words, numbers and sorted lists. */

import { type Child, button, element, fill } from "../dom";
import { count, percent, several, signedAmount } from "../words";
import { type Component, KEY, ROLES, VALUE } from "../graph";
import type { CircuitHeader, EvaluationHeader, PredictionHeader, WorstExample } from "../data";
import { scoreWords } from "./picture";
import type { Ranking } from "../ranking";
import type { Scene } from "./scene";

/** What a click in the panel does. */
export interface Actions {
  choose(node: Component | null): void;
  chooseEdge(edge: number): void;
  label(node: Component, words: string): void;
  /** Look at the circuit that an edge is the last of. */
  sizeOf(edge: number): void;
}

const FIRST = 40; // rows of a list before "all of them" is asked for

/** The circuit as a whole: its busiest components, and what comes last. */
export function overview(scene: Scene, labels: ReadonlyMap<string, string>, actions: Actions): Child[] {
  const { graph } = scene;
  const rows = scene.byEdges().map((c) =>
    element(
      "li",
      {},
      element(
        "button",
        { type: "button", class: "row", onclick: () => actions.choose(c) },
        element("span", { class: "name" }, named(scene, c, labels)),
        element("span", { class: "numbers" }, `${count(scene.inputs[c])} in · ${count(scene.outputs[c])} out`),
      ),
    ),
  );
  return [
    scene.other && compared(scene),
    element("h2", {}, scene.other ? "Strongest edges shown" : "Strongest edges"),
    edgeList(scene, Array.from(scene.edges.subarray(0, 200)), (edge) => graph.edgeName(edge), actions),
    ...effects(scene, actions),
    element("h2", {}, `Busiest components (${count(rows.length)})`),
    limited(rows),
  ];
}

function compared(scene: Scene): HTMLElement {
  const { shared, first, second } = scene.sizes;
  const either = shared + first + second;
  const share = either ? percent(shared / either) : "–";
  return element(
    "p",
    { class: "fact" },
    `${several(shared, "edge")} in both, ${count(first)} only in A, ${count(second)} only in B: ${share} of either are shared.`,
  );
}

/** A component: its name, a person's label, and its edges in and out. */
export function component(
  scene: Scene,
  c: Component,
  labels: ReadonlyMap<string, string>,
  actions: Actions,
): Child[] {
  const { graph } = scene;
  const into = scene.into(c);
  const outOf = scene.outOf(c);
  const label = element("input", {
    type: "text",
    value: labels.get(graph.name(c)) ?? "",
    placeholder: "a label of your own",
    "aria-label": `Label of ${graph.name(c)}`,
    maxlength: 80,
    onchange: (event: Event) => actions.label(c, (event.target as HTMLInputElement).value),
  });
  return [
    element("h2", {}, graph.name(c), " ", button("×", () => actions.choose(null), { "aria-label": "Choose nothing", class: "close" })),
    element("p", { class: "fact" }, `${graph.describe(c)}: ${several(into.length, "edge")} in, ${count(outOf.length)} out`),
    element("p", {}, label),
    element("h3", {}, `In (${count(into.length)})`),
    edgeList(scene, into, (edge) => inName(scene, edge, labels), actions),
    element("h3", {}, `Out (${count(outOf.length)})`),
    edgeList(scene, outOf, (edge) => graph.readers[graph.readerOf(edge)] + span(scene, edge), actions),
  ];
}

function inName(scene: Scene, edge: number, labels: ReadonlyMap<string, string>): string {
  const { graph } = scene;
  const reader = graph.readerOf(edge);
  const role = ROLES[graph.readerKind[reader]];
  const into = role === "in" ? "" : ` → ${role}`;
  return `${named(scene, graph.writerOf(edge), labels)}${into}${span(scene, edge)}`;
}

function span(scene: Scene, edge: number): string {
  const name = scene.graph.spanOf(edge);
  return name && ` @ ${name}`;
}

function named(scene: Scene, c: Component, labels: ReadonlyMap<string, string>): string {
  const name = scene.graph.name(c);
  const label = labels.get(name);
  return label ? `${name} “${label}”` : name;
}

/** An edge: its ends, score and rank, and the same of the other circuits. */
export function edgeFacts(scene: Scene, edge: number, runs: readonly Ranking[], actions: Actions): Child[] {
  const { graph, ranking } = scene;
  const [writer, reader] = [graph.writerOf(edge), graph.readerOf(edge)];
  const fed = graph.fed[reader];
  const kind = graph.readerKind[reader];
  const shared = fed.length > 1 && (kind === KEY || kind === VALUE);
  const rank = ranking.rank?.[edge];
  const facts: [string, Child][] = [
    ["from", button(graph.name(writer), () => actions.choose(writer), { class: "link" })],
    ["into", element("span", {}, ...fed.flatMap((c) => [button(graph.name(c), () => actions.choose(c), { class: "link" }), " "]))],
    ["score", scoreWords(scene.score(edge))],
    ["rank", rank === undefined ? "none" : `${count(rank + 1)} of ${count(graph.nEdges)}`],
    ["in this circuit", inWords(scene, edge)],
    ...effect(ranking, edge),
  ];
  return [
    element("h2", {}, graph.edgeName(edge), " ", button("×", () => actions.choose(null), { "aria-label": "Choose nothing", class: "close" })),
    shared && element("p", { class: "fact" }, `${graph.readers[reader]} is one input that ${fed.length} heads share.`),
    element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
    rank !== undefined && button("Smallest circuit that has it", () => actions.sizeOf(edge)),
    runs.length > 1 && agreement(edge, runs),
  ];
}

/** What keeping the edge alone is worth, where it was measured. */
function effect(ranking: Ranking, edge: number): [string, string][] {
  const evidence = ranking.header.evidence;
  if (!evidence) return [];
  const place = evidence.edges.indexOf(edge);
  if (place < 0) return [["exact effect", "not measured for this edge"]];
  const where = `the full model's ${evidence.metric} minus that without the edge, mean of ${several(evidence.pairs, "pair")}`;
  return [["exact effect", `${signedAmount(evidence.effects[place])}: ${where}`]];
}

/** The edges that were patched, those of the largest effects first. */
function effects(scene: Scene, actions: Actions): Child[] {
  const evidence = scene.ranking.header.evidence;
  if (!evidence) return [];
  const order = [...evidence.edges.keys()].sort((a, b) => Math.abs(evidence.effects[b]) - Math.abs(evidence.effects[a]));
  const most = Math.abs(evidence.effects[order[0]]) || 1;
  const rows = order.map((i) => listRow(scene.graph.edgeName(evidence.edges[i]), evidence.effects[i] / most, [signedAmount(evidence.effects[i])], null, () => actions.chooseEdge(evidence.edges[i])));
  return [element("h2", {}, `Largest exact effects (on ${evidence.metric})`), limited(rows)];
}

function inWords(scene: Scene, edge: number): string {
  if (scene.circuit.has[edge]) return "yes";
  const rank = scene.ranking.rank?.[edge];
  const nominal = scene.circuit.nominal;
  return nominal !== null && rank !== undefined && rank < nominal ? "no: it is kept, and can carry no signal" : "no";
}

/** What the other circuits say of the same edge. */
function agreement(edge: number, runs: readonly Ranking[]): HTMLElement {
  const rows = runs.map((run) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, run.header.label),
      element("td", {}, run.found.has[edge] ? "has it" : "–"),
      element("td", {}, run.rank ? count(run.rank[edge] + 1) : "–"),
      element("td", {}, run.scores ? signedAmount(run.scores[edge]) : "–"),
    ),
  );
  const heads = ["run", "as found", "rank", "score"].map((name) => element("th", { scope: "col" }, name));
  return element(
    "div",
    {},
    element("h3", {}, `In ${runs.filter((run) => run.found.has[edge]).length} of ${runs.length} circuits`),
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)),
  );
}

function edgeList(scene: Scene, edges: number[], name: (edge: number) => string, actions: Actions): HTMLElement {
  if (!edges.length) return element("p", { class: "none" }, "none");
  const sizes = edges.map((edge) => Math.abs(scene.score(edge) ?? 0));
  const most = Math.max(...sizes.filter(Number.isFinite), 1e-30);
  const { rank } = scene.ranking;
  const rows = edges.map((edge, i) => {
    const score = scene.score(edge);
    const share = (score ?? 0) < 0 ? -sizes[i] / most : sizes[i] / most;
    const said = score === null ? "" : scene.ranking.header.signed ? signedAmount(score) : scoreWords(score);
    const side = scene.other ? scene.side(edge) : null;
    return listRow(name(edge), share, [said, rank ? `#${count(rank[edge] + 1)}` : ""], side, () => actions.chooseEdge(edge));
  });
  return limited(rows);
}

/** A row of a list: a name, a bar of a signed share, and numbers. */
function listRow(words: string, share: number, numbers: string[], side: string | null, choose: () => void): HTMLLIElement {
  const bar = element("meter", { min: 0, max: 1, value: Math.min(Math.abs(share), 1), "aria-hidden": "true" });
  if (share < 0) bar.classList.add("below");
  return element(
    "li",
    {},
    element(
      "button",
      { type: "button", class: side ? `row side-${side}` : "row", onclick: choose },
      element("span", { class: "name", title: words }, words),
      bar,
      ...numbers.map((each, i) => element("span", { class: i ? "numbers rank" : "numbers" }, each)),
    ),
  );
}

/** A list's first rows, and the rest on a click. */
function limited(rows: HTMLLIElement[]): HTMLElement {
  const list = element("ul", { class: "rows" }, ...rows.slice(0, FIRST));
  if (rows.length <= FIRST) return list;
  const more = button(`All ${count(rows.length)}`, () => {
    list.append(...rows.slice(FIRST));
    more.remove();
  });
  return element("div", {}, list, more);
}

/** The judged examples on which the circuit is farthest from the model. */
export function examples(header: CircuitHeader): Child[] {
  const told = header.evidence?.predictions ?? [];
  if (!header.evaluations.length && !told.length) {
    return [element("p", {}, "No examples: `edgewise evaluate` judges a circuit and names those that it is worst at.")];
  }
  const judged = header.evaluations.flatMap((each) => [
    element("h2", {}, each.name ? `Judged on ${each.name}` : "Judged"),
    metrics(each),
    each.worst.length > 0 && element("h3", {}, "Examples on which the circuit is farthest from the model"),
    element("ol", { class: "examples" }, ...each.worst.map(example)),
  ]);
  return [...judged, told.length > 0 && element("h2", {}, "What model and circuit predict"), ...told.map(prediction)];
}

function prediction(each: PredictionHeader): HTMLElement {
  const best = each.model.map(([token, share], i) =>
    element("tr", {}, ...[said(token, share, each.answers), said(...each.circuit[i], each.answers)].flat()),
  );
  const heads = ["model", "", "circuit", ""].map((name) => element("th", { scope: "col" }, name));
  return element(
    "section",
    { class: "examples", "aria-label": `Example ${each.number}` },
    element("p", { class: "numbers" }, `example ${each.number}`),
    element("p", {}, element("b", {}, "clean "), ...marked(each.clean, each.corrupted)),
    element("p", {}, element("b", {}, "corrupted "), ...marked(each.corrupted, each.clean)),
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...best)),
  );
}

function said(token: string, share: number, answers: string[]): HTMLElement[] {
  const right = answers.includes(token);
  return [element("td", { class: right ? "token right" : "token" }, `“${token}”${right ? " ✓" : ""}`), element("td", {}, percent(share))];
}

/** Words or tokens, those marked that are others in the twin. */
function marked(words: string[], others: string[]): Child[] {
  return words.map((word, i) => (word === others[i] ? word : element("mark", {}, word)));
}

function example(each: WorstExample): HTMLElement {
  const clean = each.clean.split(/(\s+)/);
  const corrupted = each.corrupted.split(/(\s+)/);
  return element(
    "li",
    {},
    element("p", { class: "numbers" }, `example ${each.number}, distance ${scoreWords(each.distance)}`),
    element("p", {}, element("b", {}, "clean "), ...marked(clean, corrupted)),
    element("p", {}, element("b", {}, "corrupted "), ...marked(corrupted, clean)),
  );
}

function metrics(each: EvaluationHeader): HTMLElement {
  const cell = (value: number | null) => element("td", {}, value === null ? "" : scoreWords(value));
  const rows = Object.entries(each.metrics).map(([name, row]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, `${name.replaceAll("_", " ")} ${row.lower_is_better ? "↓" : "↑"}`),
      element("td", { title: `95 %: ${scoreWords(row.low)} to ${scoreWords(row.high)}` }, scoreWords(row.value)),
      ...[row.full, row.empty, row.random, row.eap].map(cell),
    ),
  );
  const heads = ["", "circuit", "full", "empty", "random", "EAP"].map((name) => element("th", { scope: "col" }, name));
  const said = `${count(each.n)} ${each.split ?? ""} examples, a circuit of ${several(each.actual, "actual edge")}`;
  return element(
    "table",
    {},
    element("caption", {}, said),
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...rows),
  );
}

/** Where the circuit comes from. */
export function about(header: CircuitHeader, convention: string): Child[] {
  const rows: [string, string][] = [
    ["size", `${count(header.edges)} edges, ${count(header.actual)} actual, of ${count(header.total)}`],
    ["graph", convention],
    ...header.about,
  ];
  return [
    element("h2", {}, "Where this circuit comes from"),
    ...header.notes.map((note) => element("p", { class: "fact" }, note)),
    element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
  ];
}

/** Put children in a panel's place and go to its beginning. */
export function showIn(panel: HTMLElement, children: Child[]): void {
  fill(panel, ...children);
  panel.scrollTop = 0;
}
