/** What was computed beforehand of an edge: its exact effect, the examples it matters to, and where its head looks. */

import { type Child, element } from "../dom";
import { row, rowsOf } from "../rows";
import { count, percent, quote, several, signedAmount } from "../words";
import type { EvidenceHeader, LookHeader } from "../data";
import { type Component, type Graph, KEY, LOGITS, MLP, QUERY, VALUE } from "../graph";
import type { Actions } from "./panel";
import type { Ranking } from "../ranking";
import type { Scene } from "./scene";

const WORST = 3; // examples on which an edge matters most
/** The command that measures what a page has no evidence of. */
export const MEASURES = "`edgewise view RUN --evidence 200`";

/** What keeping the edge alone is worth, where it was measured. */
export function effect(scene: Scene, edge: number): [string, string][] {
  const found = scene.evidenceOf(edge);
  if (!found) return [["exact effect", "not measured"]];
  const { evidence, place } = found;
  const where = `the full model's ${evidence.metric} minus that without the edge, mean of ${several(evidence.pairs, "pair")}`;
  return [["exact effect", `${signedAmount(evidence.effects[place])}: ${where}`]];
}

/** The edges that were patched, those of the largest effects first. */
export function effects(scene: Scene, actions: Actions): Child[] {
  const evidence = scene.ranking.header.evidence;
  if (!evidence) return [];
  const order = [...evidence.edges.keys()].sort((a, b) => Math.abs(evidence.effects[b]) - Math.abs(evidence.effects[a]));
  const most = Math.abs(evidence.effects[order[0]]) || 1;
  const made = (i: number) =>
    row({ words: scene.graph.edgeName(evidence.edges[i]), numbers: signedAmount(evidence.effects[i]), share: evidence.effects[i] / most, choose: () => actions.chooseEdge(evidence.edges[i]) });
  return [element("h2", {}, `Largest exact effects (on ${evidence.metric})`), rowsOf(order.length, (place) => made(order[place]))];
}

/** The examples to which an edge matters most, and where the head looks that reads it; or how to measure them. */
export function evidenceFacts(scene: Scene, edge: number): Child[] {
  const found = scene.evidenceOf(edge);
  if (!found) return [element("p", { class: "fact" }, unmeasured(scene.rankingOf(edge), edge))];
  const { evidence, place } = found;
  const look = evidence.looks[place];
  return [...(look ? looked(scene, edge, evidence, look) : []), ...worst(evidence, place)];
}

/** What is not known of an edge, and what measures it: the strongest edges of the circuit as found are examined. */
function unmeasured({ found, graph, header }: Ranking, edge: number): string {
  if (!canMeasure(graph)) return "Edges of a graph with features, neurons or positions are not patched one by one, so this one's effect is not known.";
  const what = "Its effect, where its head looks and the examples it matters to were not measured";
  if (!found.has[edge]) return `${what}: ${MEASURES} examines edges of the circuit as found, and this is none.`;
  if (!header.evidence) return `${what}: ${MEASURES} measures them.`;
  const strongest = `the strongest ${count(header.evidence.edges.length)} only`;
  const place = found.edges.indexOf(edge) + 1;
  return `${what}: they were for ${strongest}. \`edgewise view RUN --evidence ${place}\` reaches this one.`;
}

/** Whether `MEASURES` takes circuits of a graph. */
export function canMeasure(graph: Graph): boolean {
  return !graph.header.apart && !graph.header.spans.length;
}

/** An edge's effect and its head's look, in a line; null where neither was computed. */
export function inShort(scene: Scene, edge: number): string | null {
  const { graph } = scene;
  const found = scene.evidenceOf(edge);
  if (!found) return null;
  const { evidence, place } = found;
  const effect = `effect ${signedAmount(evidence.effects[place])}`;
  const look = evidence.looks[place];
  if (!look) return effect;
  const [key, withIt, without] = look.keys[0];
  const kind = graph.readerKind[graph.readerOf(edge)];
  const token = quote(evidence.prompts[look.example][key] ?? "");
  const said =
    kind === QUERY || kind === KEY
      ? `${token} gets ${percent(withIt, 0)}, ${percent(without, 0)} without it`
      : `${kind === VALUE ? "taken from" : "looks at"} ${token} with ${percent(withIt, 0)}`;
  return `${effect} · ${said}`;
}

/** Where a head looks as it writes, if one of its edges into the logits or an MLP was looked at. */
export function headFacts(scene: Scene, head: Component): Child[] {
  const { graph, ranking } = scene;
  const { evidence } = ranking.header;
  if (!evidence) return [];
  const kindOf = (edge: number) => graph.readerKind[graph.readerOf(edge)];
  const written = evidence.edges.filter((edge, i) => evidence.looks[i] && graph.writerOf(edge) === head && (kindOf(edge) === LOGITS || kindOf(edge) === MLP));
  const edge = written.find((each) => kindOf(each) === LOGITS) ?? written[0];
  const look = edge === undefined ? null : evidence.looks[evidence.edges.indexOf(edge)];
  return look ? looked(scene, edge, evidence, look) : [];
}

function worst(evidence: EvidenceHeader, place: number): Child[] {
  const effects = evidence.by_pair[place];
  if (!effects) return [];
  const order = [...effects.keys()].sort((a, b) => Math.abs(effects[b]) - Math.abs(effects[a])).slice(0, WORST);
  return [
    element("h3", {}, `Examples to which it matters most (of ${evidence.pairs})`),
    element(
      "ul",
      { class: "examples" },
      ...order.map((i) => element("li", {}, element("span", { class: "numbers" }, `${signedAmount(effects[i])} · example ${i} `), evidence.prompts[i].join(""))),
    ),
  ];
}

/** In words: the head that reads the edge, and its attention with the edge and without it; or the head that writes it. */
function looked(scene: Scene, edge: number, evidence: EvidenceHeader, look: LookHeader): Child[] {
  const { graph } = scene;
  const reader = graph.readerOf(edge);
  const kind = graph.readerKind[reader];
  const tokens = evidence.prompts[look.example];
  const at = (position: number) => `${quote(tokens[position] ?? "")}@${position}`;
  const moves = kind === QUERY || kind === KEY;
  const layer = moves || kind === VALUE ? graph.readerLayer[reader] : graph.writerLayer[graph.writerOf(edge)];
  const head = `a${layer}.h${look.head}`;
  const said = moves
    ? `without this edge, a part of its ${kind === QUERY ? "query" : "keys"}, ${head} looks elsewhere from ${at(look.query)}:`
    : kind === VALUE
      ? `${head} takes most of what this edge changes in its values to ${at(look.query)}, from:`
      : `${head} looks from ${at(look.query)} at:`;
  const names = ["key", "attention", ...(moves ? ["without the edge"] : [])];
  const rows = look.keys.map(([key, withIt, without]) =>
    element("tr", {}, element("th", { scope: "row" }, at(key)), element("td", {}, percent(withIt)), moves && element("td", {}, percent(without))),
  );
  return [
    element("h3", {}, "Where its head looks"),
    element("p", { class: "fact" }, `Example ${look.example}, to which ${graph.edgeName(edge)} matters most: ${said}`),
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows),
    ),
    element("p", { class: "fact" }, `On: ${tokens.join("")}`),
  ];
}
