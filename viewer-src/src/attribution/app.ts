/** Attribution graphs: one state, and what shows it. */

import { about, type Draft, nodeFacts, pinnedFacts } from "./panel";
import { type Actions, name } from "./names";
import { ALL, fragment, type GraphState, type Tab, ZOOMS } from "./state";
import { AttributionGraph, type Parts, ROOT } from "./graph";
import { influence, order, type Scores, shares, strongest, type Structure } from "./influence";
import { type Labels, labelsFile, readLabels, withLabel } from "../labels";
import { type App, type Documents, type Hit, Shell } from "../shell";
import { type Among, choices, importance, isAmong, lists, rankedNodes } from "./several";
import { Background } from "./background";
import { afterPress, button, type Child, chooser, element, fill } from "../dom";
import { count, percent } from "../words";
import { type Drawn, drawn } from "./picture";
import { edgeFacts } from "./edge";
import { Stage } from "./stage";
import { Store } from "../store";

const TABS: [Tab, string][] = [
  ["node", "Node"],
  ["pinned", "Pinned"],
  ["about", "About"],
];
const MOST_HITS = 12;
const AT_REST = 80; // edges drawn while nothing is chosen
const MOST_LISTED = 1000;

export class GraphApp implements App {
  readonly shell: Shell;
  private readonly graph: AttributionGraph;
  private readonly structure: Structure;
  private readonly influence: Float64Array;
  private readonly share: Float32Array;
  private readonly ranked: Uint32Array;
  /** Of several graphs: how much each edge matters, and all edges, those that matter most first. */
  private readonly matters: Float64Array;
  private readonly byImportance: Uint32Array;
  private readonly store: Store<GraphState>;
  private readonly background: Background;
  private readonly stage = new Stage((node) => this.actions.choose(node), (node) => this.actions.pin(node));
  private readonly range = element("input", { type: "range", min: 0, max: ALL, "aria-label": "Share of all influence" });
  private readonly said = element("p", { class: "said" });
  private readonly options = element("div", { class: "options" });
  private readonly tabs = element("div", { class: "tabs", role: "group", "aria-label": "Panel" });
  private readonly panel = element("section", { class: "panel", "aria-label": "What is chosen", tabindex: 0 });
  private shown: Uint8Array = new Uint8Array();
  private ordered: number[] = [];
  private atRest: Drawn[] = [];
  private scores: Scores | null = null;
  private readonly draft: Draft;
  /** A node that an address named, and that there is none of: to be said once. */
  private unknown: string | null = null;

  private readonly actions: Actions = {
    choose: (node) => this.store.change({ node, edge: null, tab: "node" }),
    chooseEdge: (edge) => this.store.change({ node: this.graph.targetOf(edge), edge, tab: "node" }),
    pin: (node) => this.setPinned(toggled(this.store.state.pinned, node)),
    pinAll: (nodes) => this.setPinned(new Set([...this.store.state.pinned, ...nodes])),
    unpinAll: () => this.setPinned(new Set()),
    group: (label, nodes) => this.store.change({ groups: [...this.store.state.groups, [label, nodes]] }),
    ungroup: (index) => this.store.change({ groups: this.store.state.groups.filter((_, i) => i !== index) }),
    label: (node, words) => this.store.change({ labels: withLabel(this.store.state.labels, this.graph.parts.ids[node], words) }),
  };

  /** `given`: the labels that came with the page, which stand in the parts already. */
  constructor(root: HTMLElement, parts: Parts, documents: Documents, given: Labels) {
    this.draft = (documents.history.draft ??= { label: "", ticked: new Set<number>() }) as Draft;
    this.graph = new AttributionGraph(parts);
    const structure = (this.structure = {
      offsets: parts.offsets,
      sources: parts.sources,
      weight: parts.weight,
      kind: parts.kind,
      layer: parts.layer,
      position: parts.position,
      rootWeight: parts.rootWeight,
      nTokens: parts.tokens.length,
    });
    this.influence = parts.extras.several?.influence ?? influence(structure, order(structure));
    this.share = parts.share ?? shares(this.influence);
    const place = (node: number) => (parts.kind[node] === ROOT ? -parts.rootWeight[node] : this.share[node]);
    this.ranked = Uint32Array.from(this.share.keys()).sort((a, b) => place(a) - place(b));
    const { several } = parts.extras;
    this.matters = several ? importance(this.graph, several) : new Float64Array();
    this.byImportance = Uint32Array.from(this.matters.keys()).sort((a, b) => this.matters[b] - this.matters[a]);
    this.background = new Background(structure, (found) => this.hear(found));
    this.store = new Store(fragment(this.graph, (id) => (this.unknown = id)), documents, (state, before) => this.show(state, before));
    this.range.addEventListener("input", () => this.store.change({ threshold: Number(this.range.value) }));
    this.shell = new Shell({
      title: parts.title,
      search: { hint: "a label, an id, a token", find: (text) => this.find(text) },
      steps: "smaller, larger",
      keys: [
        ["arrow keys", "from node to node"],
        ["Enter, Shift and a click", "pin the node, or unpin it"],
      ],
      picture: () => this.stage.picture(),
      redraw: () => this.stage.redraw(),
      undo: () => this.store.undo(),
      redo: () => this.store.redo(),
      clear: () => this.actions.choose(null),
      resize: (by) => this.store.change({ threshold: Math.max(0, Math.min(ALL, this.store.state.threshold + by)) }),
      saveLabels: () => labelsFile(new Map([...given, ...this.store.state.labels])),
      loadLabels: (text) => this.store.change({ labels: new Map([...this.store.state.labels, ...readLabels(text)]) }),
    }, documents);
    const size = element("section", { class: "size", "aria-label": "How much is shown" }, this.said, element("div", { class: "line" }, this.range));
    const side = element("div", { class: "side" }, size, this.options, this.tabs, this.panel);
    root.append(this.shell.bar, element("main", {}, this.stage.root, side), this.shell.live);
  }

  get address(): string {
    return this.store.address;
  }

  start(): void {
    this.store.start();
  }

  /** Give the place to another view. */
  stop(): void {
    this.background.stop();
    this.shell.stop();
    this.store.stop();
  }

  private show(state: GraphState, before: GraphState | null): void {
    if (!before || state.threshold !== before.threshold || state.pinned !== before.pinned || state.among !== before.among) {
      this.shown = this.within(state);
      this.ordered = this.inOrder(state);
      this.atRest = this.ordered.slice(0, AT_REST).map((edge) => this.atRestOf(edge));
    }
    if (state.pinned !== before?.pinned) {
      this.scores = null;
      const kept = new Uint8Array(this.graph.n).fill(state.pinned.size ? 0 : 1);
      for (const node of state.pinned) kept[node] = 1;
      this.background.ask(kept);
    }
    if (this.range.value !== String(state.threshold)) this.range.value = String(state.threshold);
    const nodes = this.shown.reduce((sum, x) => sum + x, 0);
    const share = percent(state.threshold / ALL);
    fill(this.said, element("b", {}, count(nodes)), ` of ${count(this.graph.n)} nodes: ${share} of all influence`);
    this.range.setAttribute("aria-valuetext", `${share} of all influence, ${count(nodes)} nodes`);
    this.showOptions(state);
    const { several } = this.graph.parts.extras;
    this.stage.show({
      graph: this.graph,
      shown: this.shown,
      ranked: this.ranked,
      zoom: state.zoom,
      node: state.node,
      edge: state.edge === null ? null : this.atRestOf(state.edge),
      pinned: state.pinned,
      atRest: this.atRest,
      isAmong: (edge) => !several || isAmong(several, state.among, edge),
      title: `${this.graph.parts.title}: ${count(nodes)} of ${count(this.graph.n)} nodes`,
      label: (node) => name(this.graph, state, node),
    });
    this.showPanel(state);
    this.shell.allow(this.store.canUndo, this.store.canRedo);
    this.shell.say(state.node === null ? `${count(nodes)} nodes` : `${name(this.graph, state, state.node)}: ${this.graph.describe(state.node)}`);
    if (this.unknown !== null) this.shell.complain(`The address names “${this.unknown.slice(0, 40)}”, which is no node of this graph: nothing is chosen.`);
    this.unknown = null;
  }

  /** The edges between nodes that are shown, the most important first: a few to be drawn, of several graphs a list. */
  private inOrder(state: GraphState): number[] {
    const { several } = this.graph.parts.extras;
    if (!several) return strongest(this.structure, this.influence, this.shown, AT_REST);
    const { sources } = this.graph.parts;
    const found: number[] = [];
    for (const edge of this.byImportance) {
      if (found.length === MOST_LISTED) break;
      if (this.shown[sources[edge]] && this.shown[this.graph.targetOf(edge)] && isAmong(several, state.among, edge)) found.push(edge);
    }
    return found;
  }

  /** An edge to be drawn by how much influence it carries. */
  private atRestOf(edge: number): Drawn {
    const { sources, weight, rootWeight, extras } = this.graph.parts;
    const target = this.graph.targetOf(edge);
    const [source, , , share] = drawn(this.graph, sources[edge], target, weight[edge]);
    const carried = share * (this.influence[target] + rootWeight[target]);
    return [source, target, weight[edge], extras.several ? this.matters[edge] : carried];
  }

  /** Which nodes are shown: the most influential, what is pinned, and all that pruning never takes away. */
  private within(state: GraphState): Uint8Array {
    const { kind } = this.graph.parts;
    const most = state.threshold / ALL + 1e-6;
    const found = Uint8Array.from(kind, (_, node) => (this.graph.isPruned(node) && this.share[node] > most ? 0 : 1));
    for (const node of state.pinned) found[node] = 1;
    return found;
  }

  private hear(found: Scores): void {
    this.scores = found;
    afterPress(() => {
      const { tab, node } = this.store.state;
      if (tab === "pinned" || (tab === "node" && node === null)) this.showPanel(this.store.state);
    });
  }

  private setPinned(pinned: ReadonlySet<number>): void {
    const groups = this.store.state.groups
      .map(([label, nodes]) => [label, nodes.filter((node) => pinned.has(node))] as const)
      .filter((group) => group[1].length);
    this.store.change({ pinned, groups });
  }

  private find(text: string): Hit[] {
    const word = text.trim().toLowerCase();
    if (!word) return [];
    const { ids, tokens, position } = this.graph.parts;
    const hits: number[] = [];
    for (let node = 0; node < this.graph.n; node++) {
      const own = [ids[node], name(this.graph, this.store.state, node), tokens[position[node]] ?? ""];
      if (own.some((each) => each.toLowerCase().includes(word))) hits.push(node);
    }
    const exact = (node: number) => (ids[node] === text.trim() || name(this.graph, this.store.state, node).trim().toLowerCase() === word ? 0 : 1);
    hits.sort((a, b) => exact(a) - exact(b) || this.share[a] - this.share[b]);
    return hits.slice(0, MOST_HITS).map((node) => ({
      name: `${name(this.graph, this.store.state, node)} · ${this.graph.describe(node)}`,
      enter: () => this.actions.choose(node),
    }));
  }

  private showOptions(state: GraphState): void {
    const { several } = this.graph.parts.extras;
    const zoom = (by: number) => () => {
      const next = ZOOMS[ZOOMS.indexOf(state.zoom as (typeof ZOOMS)[number]) + by];
      if (next) this.store.change({ zoom: next });
    };
    fill(
      this.options,
      "Zoom ",
      button("−", zoom(-1), { "aria-label": "Zoom out", disabled: state.zoom === ZOOMS[0] }),
      `${state.zoom} ×`,
      button("+", zoom(1), { "aria-label": "Zoom in", disabled: state.zoom === ZOOMS[ZOOMS.length - 1] }),
      several && chooser("Edges", choices(several), state.among, (among) => this.store.change({ among: among as Among })),
    );
  }

  private showPanel(state: GraphState): void {
    const count = state.pinned.size;
    fill(
      this.tabs,
      ...TABS.map(([tab, words]) =>
        button(tab === "pinned" && count ? `${words} (${count})` : words, () => this.store.change({ tab }), { "aria-pressed": String(tab === state.tab) }),
      ),
    );
    fill(
      this.panel,
      ...(state.tab === "about"
        ? about(this.graph)
        : state.tab === "pinned"
          ? pinnedFacts(this.graph, state, this.scores, this.draft, this.actions)
          : this.chosenFacts(state)),
    );
    this.panel.scrollTop = 0;
  }

  private chosenFacts(state: GraphState): Child[] {
    const { several } = this.graph.parts.extras;
    if (state.edge !== null) return edgeFacts(this.graph, state, state.edge, this.actions);
    if (several && state.node === null) {
      const nodes = rankedNodes(several, (node) => this.shown[node] === 1 && this.graph.isInner(node));
      return lists(several, this.matters, { edges: this.ordered, nodes }, this.graph, (node) => name(this.graph, state, node), this.actions);
    }
    return nodeFacts(this.graph, state, this.shown, this.share, this.scores, this.actions);
  }
}

function toggled(set: ReadonlySet<number>, node: number): Set<number> {
  const found = new Set(set);
  if (!found.delete(node)) found.add(node);
  return found;
}
