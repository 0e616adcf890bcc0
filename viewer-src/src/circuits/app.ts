/** Circuits: one state, and what shows it. */

import { type CircuitState, LINES, type Tab, fragment, sizeBeside } from "./state";
import { type Actions, about, component, edgeFacts, named, overview, showIn } from "./panel";
import { type Child, button, chooser, element, fill } from "../dom";
import { type Circuit, Ranking } from "../ranking";
import { type Component, Graph } from "../graph";
import { type Found, search } from "./search";
import { Scene, type Show } from "./scene";
import { WORDS } from "./help";
import type { PageData } from "../data";
import { type App, type Documents, Shell } from "../shell";
import { SizePanel } from "./slider";
import { Stage } from "./stage";
import { examples } from "./examples";
import { Store } from "../store";
import { count, percent } from "../words";
import { labelsFile, readLabels, withLabel } from "../labels";
import { tally } from "./picture";

const SHOWS: [Show, string][] = [
  ["all", "all"],
  ["shared", "both"],
  ["first", "only A"],
  ["second", "only B"],
];
const TABS: [Tab, string][] = [
  ["selection", "Edges"],
  ["examples", "Examples"],
  ["about", "About"],
];

export class CircuitApp implements App {
  private readonly runs: Ranking[];
  private readonly store: Store<CircuitState>;
  readonly shell: Shell;
  private readonly stage = new Stage((c) => this.choose(c));
  private readonly size = new SizePanel((size) => this.store.change({ size }));
  private readonly panel = element("section", { class: "panel", "aria-label": "What is chosen", tabindex: 0 });
  private readonly tabs = element("div", { class: "tabs", role: "group", "aria-label": "Panel" });
  private readonly options = element("div", { class: "options" });
  private scene!: Scene;
  /** A component that an address named, and that there is none of: to be said once. */
  private unknown: string | null = null;
  private readonly actions: Actions = {
    choose: (c) => this.choose(c),
    chooseEdge: (edge) => this.store.change({ edge, tab: "selection" }),
    label: (c, words) => this.store.change({ labels: withLabel(this.store.state.labels, this.run.graph.name(c), words) }),
    sizeOf: (edge) => this.store.change({ size: this.run.smallestWith(edge) }),
  };

  constructor(root: HTMLElement, page: PageData, documents: Documents) {
    const graphs = page.header.graphs.map((header) => new Graph(header, page));
    this.runs = page.header.circuits.map((header) => new Ranking(header, graphs[header.graph], page));
    const sizes = this.runs.map((run) => run.graph.nEdges);
    const how = fragment(sizes, (run) => this.runs[run].foundAt, (run, node) => this.isUnknown(run, node), new Map(page.header.labels));
    this.store = new Store(how, documents, (state, before) => this.show(state, before));
    this.shell = new Shell({
      title: page.header.title,
      search: { hint: "9.3, m4, a5 > a9", find: (text) => search(this.scene, this.store.state.labels, text).map((found) => this.hit(found)) },
      steps: "smaller, larger",
      keys: [
        ["arrow keys", "from component to component"],
        ["Enter", "choose the component, or choose nothing"],
      ],
      words: WORDS,
      picture: () => this.stage.picture(),
      redraw: () => this.stage.redraw(),
      undo: () => this.store.undo(),
      redo: () => this.store.redo(),
      clear: () => this.choose(null),
      resize: (by) => this.size.step(by),
      saveLabels: () => labelsFile(this.store.state.labels),
      loadLabels: (text) => this.store.change({ labels: new Map([...this.store.state.labels, ...readLabels(text)]) }),
    }, documents);
    const side = element("div", { class: "side" }, this.size.root, this.options, this.tabs, this.panel);
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
    this.shell.stop();
    this.store.stop();
  }

  private get run(): Ranking {
    return this.runs[this.store.state.run];
  }

  private show(state: CircuitState, before: CircuitState | null): void {
    const run = this.runs[state.run];
    const changed = (...names: (keyof CircuitState)[]) => !before || names.some((name) => state[name] !== before[name]);
    if (changed("run", "size", "beside", "show")) {
      const other = this.circuitBeside(state, run);
      this.scene = new Scene(run.graph, run, run.at(state.size), other, other ? state.show : "all", other && (this.otherRun(state) ?? run));
      this.size.show(run, this.scene.circuit);
    }
    if (changed("run", "beside", "show", "lines")) this.showOptions(state);
    this.stage.show(
      this.scene,
      { node: this.nodeOf(state), edge: state.edge, lines: state.lines },
      { title: this.titleOf(run, state), label: (c) => state.labels.get(run.graph.name(c)) },
    );
    this.showPanel(state);
    this.shell.allow(this.store.canUndo, this.store.canRedo);
    this.shell.say(this.summary(state));
    if (this.unknown !== null) this.shell.complain(`The address names “${this.unknown.slice(0, 40)}”, which is no component of this graph: nothing is chosen.`);
    this.unknown = null;
  }

  private isUnknown(run: number, node: string): boolean {
    if (this.runs[run].graph.component(node) !== null) return false;
    this.unknown = node;
    return true;
  }

  private nodeOf(state: CircuitState): Component | null {
    return state.node === null ? null : this.runs[state.run].graph.component(state.node);
  }

  /** The circuit to compare with, at as many edges where it has sizes. */
  private circuitBeside(state: CircuitState, run: Ranking): Circuit | null {
    const size = sizeBeside(state.beside);
    if (state.beside === "found" || (size !== null && !run.order)) return run.found;
    if (size !== null) return run.at(run.largest(size));
    const other = this.otherRun(state);
    if (!other || other === run || other.graph !== run.graph) return null;
    return other.order ? other.at(other.largest(run.at(state.size).edges.length)) : other.found;
  }

  /** The other run that the circuit is compared with. */
  private otherRun(state: CircuitState): Ranking | undefined {
    return state.beside === null ? undefined : this.runs[Number(state.beside)];
  }

  private titleOf(run: Ranking, state: CircuitState): string {
    const { circuit, other } = this.scene;
    const first = `${run.header.label}: ${count(circuit.edges.length)}`;
    if (!other) return `${first} of ${count(run.graph.nEdges)} edges`;
    const own = state.beside === "found" ? `${run.header.label} as found` : run.header.label;
    const beside = this.otherRun(state)?.header.label ?? own;
    return `A ${first} · B ${beside}: ${count(other.edges.length)} of ${count(run.graph.nEdges)} edges`;
  }

  private choose(c: Component | null): void {
    const node = c === null ? null : this.run.graph.name(c);
    this.store.change({ node, edge: null, tab: "selection" });
  }

  private hit(found: Found): { name: string; enter(): void } {
    const { graph } = this.run;
    if ("edge" in found) {
      return { name: graph.edgeName(found.edge), enter: () => this.actions.chooseEdge(found.edge) };
    }
    return {
      name: `${named(this.scene, found.node, this.store.state.labels)}: ${tally(this.scene, found.node)}`,
      enter: () => this.choose(found.node),
    };
  }

  private showPanel(state: CircuitState): void {
    fill(
      this.tabs,
      ...TABS.map(([tab, name]) => button(name, () => this.store.change({ tab }), { "aria-pressed": String(tab === state.tab) })),
    );
    const { header, graph } = this.runs[state.run];
    showIn(this.panel, this.contents(state, () => about(header, graph.header.convention)));
  }

  private contents(state: CircuitState, aboutIt: () => Child[]): Child[] {
    if (state.tab === "examples") return examples(this.runs[state.run], this.scene.circuit);
    if (state.tab === "about") return aboutIt();
    if (state.edge !== null) {
      const runs = this.runs.filter((run) => run.graph === this.scene.graph);
      return edgeFacts(this.scene, state.edge, runs, state.labels, this.actions);
    }
    const node = this.nodeOf(state);
    return node === null
      ? overview(this.scene, state.labels, this.actions)
      : component(this.scene, node, state.labels, this.actions);
  }

  private showOptions(state: CircuitState): void {
    const run = this.runs[state.run];
    const circuits = this.runs.map((each, i): [string, string] => [String(i), each.header.label]);
    const beside = circuits.filter(([i]) => i !== String(state.run) && this.runs[Number(i)].graph === run.graph);
    const measured = run.order ? run.measuredSizes() : [];
    const sizes = measured.map((n): [string, string] => [`at${n}`, `itself, ${percent(1 - n / run.graph.nEdges)} removed`]);
    const choices: [string, string][] = [["", "nothing"], ["found", "itself, as found"], ...sizes, ...beside];
    fill(
      this.options,
      circuits.length > 1 &&
        chooser("Circuit", circuits, String(state.run), (value) => {
          const next = Number(value);
          const { foundAt, graph } = this.runs[next];
          const { node } = this.store.state;
          const held = node !== null && graph.component(node) !== null ? node : null;
          this.store.change({ run: next, size: foundAt, node: held, edge: null, beside: null, show: "all" });
        }),
      chooser("Compare with", choices, state.beside ?? "", (value) => this.store.change({ beside: value || null, show: "all" })),
      !!this.scene.other && chooser("Show", SHOWS, state.show, (show) => this.store.change({ show: show as Show })),
      chooser("Lines at rest", LINES.map((n) => [String(n), n ? `${this.scene.ranking.rank ? "strongest" : "any"} ${n}` : "none"]), String(state.lines), (n) =>
        this.store.change({ lines: Number(n) }),
      ),
    );
  }

  private summary(state: CircuitState): string {
    const edges = `${count(this.scene.circuit.edges.length)} edges`;
    const node = this.nodeOf(state);
    if (state.edge !== null) return `${edges}. ${this.scene.graph.edgeName(state.edge)}`;
    return node === null ? edges : `${edges}. ${this.scene.graph.name(node)}: ${tally(this.scene, node)}`;
  }
}
