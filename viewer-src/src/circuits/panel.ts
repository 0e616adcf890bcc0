/** The panel beside the picture: what is chosen, in words, numbers and sorted lists. */

import { type Child, button, element, fill, terms } from "../dom";
import { count, percent, several, signedAmount } from "../words";
import { type Component, ROLES } from "../graph";
import { effect, effects, evidenceFacts, headFacts, inShort } from "./evidence";
import { type Labels, labelField } from "../labels";
import type { Circuit, Ranking } from "../ranking";
import { row, rowsOf } from "../rows";
import type { CircuitHeader } from "../data";
import { known } from "./curve";
import { scoreWords } from "./picture";
import type { Scene } from "./scene";

/** What a click in the panel does. */
export interface Actions {
  choose(node: Component | null): void;
  chooseEdge(edge: number): void;
  label(node: Component, words: string): void;
  /** Look at the smallest circuit in which an edge can carry signal. */
  sizeOf(edge: number): void;
}

/** The circuit as a whole: its busiest components, and what comes last. */
export function overview(scene: Scene, labels: Labels, actions: Actions): Child[] {
  const { graph } = scene;
  const busiest = scene.byEdges();
  const busy = (c: Component) =>
    row({ words: named(scene, c, labels), numbers: `${count(scene.inputs[c])} in · ${count(scene.outputs[c])} out`, share: null, choose: () => actions.choose(c) });
  return [
    scene.other && compared(scene),
    element("h2", {}, `${scene.ranking.rank ? "Strongest edges" : "Edges, which have no scores"}${scene.other ? " shown" : ""}`),
    edgeList(scene, Array.from(scene.edges.subarray(0, 200)), (edge) => graph.edgeName(edge), actions),
    ...effects(scene, actions),
    element("h2", {}, `Busiest components (${count(busiest.length)})`),
    rowsOf(busiest.length, (place) => busy(busiest[place])),
  ];
}

/** How many edges two circuits share, and what was measured of each. */
function compared(scene: Scene): HTMLElement {
  const { shared, first, second } = scene.sizes;
  const either = shared + first + second;
  const share = either ? percent(shared / either) : "–";
  const sides: [string, Ranking | null, Circuit | null][] = [
    ["A", scene.ranking, scene.circuit],
    ["B", scene.otherRanking, scene.other],
  ];
  return element(
    "div",
    { class: "fact" },
    element("p", {}, `${several(shared, "edge")} in both, ${count(first)} only in A, ${count(second)} only in B: ${share} of either are shared.`),
    ...sides.map(([side, run, circuit]) => run && circuit && element("p", {}, `${side}, ${run.header.label} with ${several(circuit.edges.length, "edge")}: ${known(run, circuit).words}`)),
  );
}

/** A component: its name, a person's label, and its edges in and out. */
export function component(
  scene: Scene,
  c: Component,
  labels: Labels,
  actions: Actions,
): Child[] {
  const { graph } = scene;
  const into = scene.into(c);
  const outOf = scene.outOf(c);
  const label = labelField(graph.name(c), labels, (words) => actions.label(c, words));
  return [
    element("h2", {}, graph.name(c), " ", button("×", () => actions.choose(null), { "aria-label": "Choose nothing", class: "close" })),
    element("p", { class: "fact" }, `${graph.describe(c)}: ${several(into.length, "edge")} in, ${count(outOf.length)} out`),
    element("p", {}, label),
    ...headFacts(scene, c),
    ...inputs(scene, into, (edges) => edgeList(scene, edges, (edge) => inName(scene, edge, labels), actions, (edge) => inShort(scene, edge))),
    element("h3", {}, `Out (${count(outOf.length)})`),
    edgeList(scene, outOf, (edge) => outName(scene, edge, labels), actions, (edge) => inShort(scene, edge)),
  ];
}

/** The edges in: all, or those into a head's query, key or value alone. */
function inputs(scene: Scene, into: number[], list: (edges: number[]) => HTMLElement): Child[] {
  const roleOf = (edge: number) => ROLES[scene.graph.readerKind[scene.graph.readerOf(edge)]];
  const roles = [...new Set(ROLES)].filter((role) => into.some((edge) => roleOf(edge) === role));
  const title = element("h3", {}, `In (${count(into.length)})`);
  const place = element("div", {}, list(into));
  if (roles.length < 2) return [title, place];
  const choices = [["all", into] as const, ...roles.map((role) => [role, into.filter((edge) => roleOf(edge) === role)] as const)];
  const buttons = choices.map(([name, edges]) =>
    button(`${name} ${count(edges.length)}`, () => {
      buttons.forEach((each, i) => each.setAttribute("aria-pressed", String(choices[i][0] === name)));
      fill(place, list(edges));
    }, { "aria-pressed": String(name === "all") }),
  );
  return [title, element("div", { class: "chips", role: "group", "aria-label": "Edges into" }, ...buttons), place];
}

function inName(scene: Scene, edge: number, labels: Labels): string {
  const { graph } = scene;
  const reader = graph.readerOf(edge);
  const role = ROLES[graph.readerKind[reader]];
  const into = role === "in" ? "" : ` → ${role}`;
  return `${named(scene, graph.writerOf(edge), labels)}${into}${span(scene, edge)}`;
}

function outName(scene: Scene, edge: number, labels: Labels): string {
  const { graph } = scene;
  const reader = graph.readerOf(edge);
  const fed = graph.readBy(reader);
  const label = fed.length === 1 && labels.get(graph.name(fed[0]));
  return `${graph.readers[reader]}${label ? ` “${label}”` : ""}${span(scene, edge)}`;
}

function span(scene: Scene, edge: number): string {
  const name = scene.graph.spanOf(edge);
  return name && ` @ ${name}`;
}

/** A component's name, and its label. */
export function named(scene: Scene, c: Component, labels: Labels): string {
  const name = scene.graph.name(c);
  const label = labels.get(name);
  return label ? `${name} “${label}”` : name;
}

/** An edge: its ends, score and rank, and the same of the other circuits. */
export function edgeFacts(
  scene: Scene,
  edge: number,
  runs: readonly Ranking[],
  labels: Labels,
  actions: Actions,
): Child[] {
  const { graph } = scene;
  const ranking = scene.rankingOf(edge);
  const whose = ranking === scene.ranking ? "" : ` in B, ${ranking.header.label}`;
  const [writer, reader] = [graph.writerOf(edge), graph.readerOf(edge)];
  const fed = graph.readBy(reader);
  const rank = scene.rank(edge);
  const facts: [string, Child][] = [
    ["from", button(named(scene, writer, labels), () => actions.choose(writer), { class: "link" })],
    ["into", element("span", {}, ...fed.flatMap((c) => [button(named(scene, c, labels), () => actions.choose(c), { class: "link" }), " "]))],
    [`score${whose}`, scoreWords(scene.score(edge))],
    [`rank${whose}`, rank === undefined ? "none" : `${count(rank + 1)} of ${count(graph.nEdges)}`],
    ["in this circuit", inWords(scene, edge)],
    ...effect(scene, edge),
  ];
  return [
    element("h2", {}, graph.edgeName(edge), " ", button("×", () => actions.choose(null), { "aria-label": "Choose nothing", class: "close" })),
    fed.length > 1 && element("p", { class: "fact" }, `${graph.readers[reader]} is one input that ${fed.length} heads share.`),
    terms(facts),
    !!ranking.header.score && element("p", { class: "fact" }, `The score is ${ranking.header.score}`),
    ...evidenceFacts(scene, edge),
    ranking === scene.ranking && ranking.rank && button("Smallest circuit that has it", () => actions.sizeOf(edge), { title: "in which it can carry signal" }),
    runs.length > 1 && agreement(edge, runs),
  ];
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

function edgeList(
  scene: Scene,
  edges: number[],
  name: (edge: number) => string,
  actions: Actions,
  under: (edge: number) => string | null = () => null,
): HTMLElement {
  // Scores of two rankings have units of their own, and so have their bars.
  const most = new Map<Ranking, number>();
  for (const edge of edges) {
    const [ranking, size] = [scene.rankingOf(edge), Math.abs(scene.score(edge) ?? 0)];
    if (Number.isFinite(size)) most.set(ranking, Math.max(most.get(ranking) ?? 1e-30, size));
  }
  return rowsOf(edges.length, (i) => {
    const edge = edges[i];
    const [score, rank, ranking] = [scene.score(edge), scene.rank(edge), scene.rankingOf(edge)];
    const side = scene.other && scene.side(edge);
    return row({
      words: name(edge),
      numbers: score === null ? "" : ranking.header.signed ? signedAmount(score) : scoreWords(score),
      share: (score ?? 0) / (most.get(ranking) ?? 1),
      rank: rank === undefined ? "" : `${side === "second" ? "B " : ""}#${count(rank + 1)}`,
      side,
      under: under(edge),
      choose: () => actions.chooseEdge(edge),
    });
  });
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
    terms(rows),
  ];
}

/** Put children in a panel's place and go to its beginning. */
export function showIn(panel: HTMLElement, children: Child[]): void {
  fill(panel, ...children);
  panel.scrollTop = 0;
}
