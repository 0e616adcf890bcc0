/** Dashboards of a transcoder's features: one state, and what shows it. */

import { amount, count, percent } from "../words";
import { type App, type Documents, Shell } from "../shell";
import { button, type Child, chooser, element, fill, terms } from "../dom";
import { type FeatureState, FILTERS, type Filter, fragment, type Guess, type Order, ORDERS } from "./state";
import type { FeatureSetHeader, PageData } from "../data";
import { Index, isHidden, List, listed } from "./list";
import { labelField, labelsFile, readLabels, withLabel } from "../labels";
import { answer, question, tally } from "./guess";
import { examplesOf } from "./examples";
import { FeatureSet } from "./set";
import { type Names, sides } from "./sides";
import { bars } from "./charts";
import { Store } from "../store";

const ORDER_WORDS: Record<Order, string> = {
  number: "number",
  density: "density",
  largest: "largest activation",
  mean: "mean where it is on",
  token: "commonest token",
  label: "label",
};
const FILTER_WORDS: Record<Filter, string> = { all: "all", on: "those that are on", labelled: "labelled", guessed: "guessed" };

export class FeaturesApp implements App {
  readonly shell: Shell;
  private readonly set: FeatureSet;
  private readonly index: Index;
  private readonly store: Store<FeatureState>;
  private readonly query = element("input", { type: "search", placeholder: "search: a token, a label, m12.f410", "aria-label": "Search" });
  private readonly said = element("p", { class: "said" });
  private readonly options = element("div", { class: "options" });
  private readonly guesses = element("div", { class: "options" });
  private readonly list: List;
  private readonly detail = element("section", { class: "dashboard", "aria-label": "The feature", tabindex: 0 });
  private features: number[] = [];
  /** Guesses that are being written. */
  private readonly drafts: Map<string, string>;

  constructor(root: HTMLElement, page: PageData, header: FeatureSetHeader, documents: Documents) {
    this.set = new FeatureSet(page, header);
    this.drafts = (documents.history.draft ??= new Map<string, string>()) as Map<string, string>;
    this.index = new Index(this.set);
    this.store = new Store(fragment(this.set), documents, (state, before) => this.show(state, before));
    this.list = new List(this.set, (feature) => this.store.change({ feature }));
    this.query.addEventListener("input", () => this.store.change({ query: this.query.value }));
    this.shell = new Shell(
      {
        title: header.name,
        search: this.query,
        steps: "the feature before, the next",
        keys: [],
        picture: null,
        redraw: () => undefined,
        undo: () => this.store.undo(),
        redo: () => this.store.redo(),
        clear: () => this.store.change({ query: "" }),
        resize: (by) => this.step(Math.sign(by)),
        saveLabels: () => labelsFile(this.store.state.labels),
        loadLabels: (text) => this.store.change({ labels: new Map([...this.store.state.labels, ...this.own(readLabels(text))]) }),
      },
      documents,
    );
    const size = element("section", { class: "size", "aria-label": "Which features" }, this.query, this.said, this.options, this.guesses);
    const side = element("div", { class: "side" }, size, this.list.root);
    root.append(this.shell.bar, element("main", { class: "sets" }, side, this.detail), this.shell.live);
  }

  get address(): string {
    return this.store.address;
  }

  start(): void {
    this.store.start();
  }

  stop(): void {
    this.shell.stop();
    this.store.stop();
  }

  private show(state: FeatureState, before: FeatureState | null): void {
    const changed = (...names: (keyof FeatureState)[]) => !before || names.some((name) => state[name] !== before[name]);
    if (this.query.value !== state.query) this.query.value = state.query;
    if (changed("order", "reversed", "filter", "query", "blind", "labels", "guesses")) this.features = listed(this.set, state, this.index);
    const feature = state.feature ?? this.features[0] ?? null;
    this.list.show(this.features, { ...state, feature });
    if (changed("feature", "order", "filter", "query") && feature !== null) this.list.reveal(feature);
    const on = this.set.on.reduce((sum, n) => sum + Number(n > 0), 0);
    fill(this.said, element("b", {}, count(this.features.length)), ` of ${count(this.set.n)} features; ${count(on)} are on in the text`);
    this.showOptions(state);
    fill(this.guesses, ...tally(this.set, state));
    fill(this.detail, ...(feature === null ? [element("p", { class: "none" }, "No feature of that kind.")] : this.facts(state, feature)));
    if (changed("feature")) this.detail.scrollTop = 0;
    this.shell.allow(this.store.canUndo, this.store.canRedo);
    if (feature !== null) this.shell.say(this.set.name(feature));
  }

  private showOptions(state: FeatureState): void {
    fill(
      this.options,
      chooser("Sort by", ORDERS.map((each): [string, string] => [each, ORDER_WORDS[each]]), state.order, (order) => this.store.change({ order: order as Order })),
      button(state.reversed ? "↑" : "↓", () => this.store.change({ reversed: !state.reversed }), { "aria-label": "The other way round", title: "The other way round" }),
      chooser("Show", FILTERS.map((each): [string, string] => [each, FILTER_WORDS[each]]), state.filter, (filter) => this.store.change({ filter: filter as Filter })),
      button("One at random", () => this.random(), { title: "A feature that is on in the text, and was not guessed" }),
      button("Blind", () => this.store.change({ blind: !state.blind }), {
        "aria-pressed": String(state.blind),
        title: "Hide labels and all text of a feature until you commit to a guess",
      }),
    );
  }

  /** Everything about one feature. */
  private facts(state: FeatureState, feature: number): Child[] {
    const { set } = this;
    const name = set.name(feature);
    const hidden = isHidden(set, feature, state);
    const guess = state.guesses.get(name);
    const label = labelField(name, state.labels, (words) => this.store.change({ labels: withLabel(this.store.state.labels, name, words) }));
    return [
      element("h2", { class: "title" }, name, " ", ...(hidden ? [] : [label])),
      element("p", { class: "said" }, ...this.summary(feature)),
      hidden && question(name, this.drafts, (words) => this.guess(name, { words, verdict: "" })),
      guess && answer(name, guess, (verdict) => this.guess(name, { ...guess, verdict })),
      set.on[feature] > 0 && this.histogram(feature),
      element("div", { class: "both" }, ...sides(set, feature, this.names(hidden ? null : state), !hidden)),
      ...(hidden ? [] : [element("section", { "aria-label": "Examples" }, element("h2", {}, "In the text"), ...examplesOf(set, feature))]),
      this.about(),
    ];
  }

  private summary(feature: number): Child[] {
    const { set } = this;
    const where = `of ${count(set.header.tokens)} tokens`;
    if (!set.on[feature]) return [`Never on, at none ${where}; bias ${amount(set.bias[feature])}.`];
    const often = `On at ${percent(set.density(feature), 3)} ${where} (${count(set.on[feature])})`;
    return [often, `; largest ${amount(set.max[feature])}, mean where it is on ${amount(set.mean[feature])}, bias ${amount(set.bias[feature])}.`];
  }

  private histogram(feature: number): HTMLElement {
    const { set } = this;
    const counts = set.row("histogram", feature, "u4");
    const last = counts.findLastIndex((x) => x > 0);
    const first = counts.findIndex((x) => x > 0);
    const [low, high] = [set.edges[first], set.edges[last + 1]];
    const of = Array.from(counts.subarray(first, last + 1), (value, i) => ({
      value,
      words: `${amount(set.edges[first + i])} to ${amount(set.edges[first + i + 1])}: ${count(value)} tokens`,
    }));
    return element("div", { class: "histogram" }, bars("Activations where it is on", of, [amount(low), "activation, log scale", amount(high)], "strong"));
  }

  private about(): HTMLElement {
    return element("details", { class: "about" }, element("summary", {}, "About this page"), terms(this.set.header.about));
  }

  /** What other features are called, and where they are; without labels where a feature is read blind. */
  private names(state: FeatureState | null): Names {
    const { layer, files } = this.set.header;
    return {
      words: (at, feature) => {
        const name = `m${at}.f${feature}`;
        const label = state?.labels.get(name);
        return label && !(at === layer && isHidden(this.set, feature, state!)) ? `${name} ${label}` : name;
      },
      go: (at, feature) => {
        if (at === layer) return () => this.store.change({ feature });
        const file = files[String(at)];
        return file === undefined ? null : () => void open(`${encodeURIComponent(file)}#feature=${feature}${this.store.state.blind ? "&blind=yes" : ""}`, "_blank");
      },
    };
  }

  private step(by: number): void {
    const place = this.features.indexOf(this.store.state.feature ?? this.features[0]);
    const next = this.features[Math.max(0, Math.min(this.features.length - 1, place + by))];
    if (next !== undefined) this.store.change({ feature: next });
  }

  private random(): void {
    const { guesses } = this.store.state;
    const open = this.features.filter((each) => this.set.on[each] > 0 && !guesses.has(this.set.name(each)));
    if (open.length) this.store.change({ feature: open[Math.floor(Math.random() * open.length)] });
  }

  private guess(name: string, guess: Guess): void {
    this.drafts.delete(name);
    this.store.change({ guesses: new Map([...this.store.state.guesses, [name, guess]]), feature: this.set.feature(name) });
  }

  /** Of labels those of this set's features. */
  private own(labels: ReadonlyMap<string, string>): [string, string][] {
    return [...labels].filter(([name]) => this.set.feature(name) !== null);
  }
}
