/** The list of features: which of them, and in which order. */

import { alone } from "./texts";
import { count, percent } from "../words";
import { element, fill } from "../dom";
import type { FeatureSet } from "./set";
import type { FeatureState, Order } from "./state";

const AT_ONCE = 200; // rows that are made before more are asked for

/** What may be searched of a feature: its name, label, and the tokens of its lists; the last two not of one that is hidden. */
export class Index {
  private readonly open: (string | undefined)[];
  private readonly hidden: (string | undefined)[];

  constructor(private readonly set: FeatureSet) {
    this.open = new Array<string | undefined>(set.n);
    this.hidden = new Array<string | undefined>(set.n);
  }

  has(feature: number, word: string, state: FeatureState): boolean {
    const { set } = this;
    const name = set.name(feature);
    const listed = (lists: string[]) => lists.flatMap((list) => set.ranked(list, feature).map(([token]) => alone(set.texts[token]))).join("\n").toLowerCase();
    this.open[feature] ??= `${name}\n${listed(["raising", "promoted"])}`;
    if (this.open[feature].includes(word)) return true;
    if (isHidden(set, feature, state)) return false;
    this.hidden[feature] ??= listed(["fires_on", "before"]);
    return this.hidden[feature].includes(word) || (state.labels.get(name) ?? "").toLowerCase().includes(word);
  }
}

/** Whether a feature's text must not be shown yet. */
export function isHidden(set: FeatureSet, feature: number, state: FeatureState): boolean {
  return state.blind && !state.guesses.has(set.name(feature));
}

/** The features that a state lists, in its order. */
export function listed(set: FeatureSet, state: FeatureState, index: Index): number[] {
  const word = state.query.trim().toLowerCase();
  const found: number[] = [];
  for (let feature = 0; feature < set.n; feature++) {
    if (state.filter === "on" && !set.on[feature]) continue;
    if (state.filter === "labelled" && !state.labels.has(set.name(feature))) continue;
    if (state.filter === "guessed" && !state.guesses.has(set.name(feature))) continue;
    if (!word || index.has(feature, word, state)) found.push(feature);
  }
  const text = (feature: number) => (isHidden(set, feature, state) || !set.on[feature] ? "" : alone(set.commonest(feature)));
  const label = (feature: number) => (isHidden(set, feature, state) ? "" : state.labels.get(set.name(feature)) ?? "");
  const way = state.reversed ? -1 : 1;
  const by: Record<Order, (a: number, b: number) => number> = {
    number: (a, b) => way * (a - b),
    density: (a, b) => way * (set.on[b] - set.on[a]),
    largest: (a, b) => way * (set.max[b] - set.max[a]),
    mean: (a, b) => way * (set.mean[b] - set.mean[a]),
    token: (a, b) => compared(text(a), text(b), way),
    label: (a, b) => compared(label(a), label(b), way),
  };
  found.sort((a, b) => by[state.order](a, b) || a - b);
  return found;
}

/** By text, forwards or the other way (−1); either way with nothing last. */
function compared(a: string, b: string, way: number): number {
  if (!a || !b) return a ? -1 : b ? 1 : 0;
  return way * (a < b ? -1 : a > b ? 1 : 0);
}

export class List {
  readonly root = element("ol", { class: "rows features", "aria-label": "Features" });
  private features: number[] = [];
  private made = 0;

  constructor(
    private readonly set: FeatureSet,
    private readonly choose: (feature: number) => void,
  ) {
    this.root.addEventListener("scroll", () => {
      if (this.root.scrollTop + 2 * this.root.clientHeight > this.root.scrollHeight) this.more();
    });
  }

  show(features: number[], state: FeatureState): void {
    const { scrollTop } = this.root;
    const same = features.length === this.features.length && features.every((each, i) => each === this.features[i]);
    this.features = features;
    this.state = state;
    this.made = Math.min(same ? Math.max(this.made, AT_ONCE) : AT_ONCE, features.length);
    const rows = features.slice(0, this.made).map((feature) => this.row(feature));
    fill(this.root, ...(rows.length ? rows : [element("li", { class: "none" }, "no feature of that kind")]));
    if (same) this.root.scrollTop = scrollTop;
  }

  /** Bring a feature's row into sight. */
  reveal(feature: number): void {
    const place = this.features.indexOf(feature);
    while (place >= this.made && this.made < this.features.length) this.more();
    const row = this.root.children[place] as HTMLElement | undefined;
    if (!row) return;
    const [top, bottom] = [row.offsetTop - this.root.offsetTop, row.offsetTop - this.root.offsetTop + row.offsetHeight];
    if (top < this.root.scrollTop || bottom > this.root.scrollTop + this.root.clientHeight) this.root.scrollTop = top - this.root.clientHeight / 3;
  }

  private state: FeatureState | null = null;

  private more(): void {
    const to = Math.min(this.made + AT_ONCE, this.features.length);
    for (; this.made < to; this.made++) this.root.append(this.row(this.features[this.made]));
  }

  private row(feature: number): HTMLLIElement {
    const { set } = this;
    const state = this.state!;
    const name = set.name(feature);
    const hidden = isHidden(set, feature, state);
    const label = hidden ? undefined : state.labels.get(name);
    const token = hidden ? "" : alone(set.commonest(feature));
    const guess = state.guesses.get(name);
    const words = label ?? (set.on[feature] ? (hidden ? "" : `“${token}”`) : "never on");
    return element(
      "li",
      {},
      element(
        "button",
        { type: "button", class: "row", onclick: () => this.choose(feature), "aria-current": feature === state.feature ? "true" : null },
        element("span", { class: "id" }, name),
        element("bdi", { class: label ? "name label" : "name" }, words),
        guess && element("span", { class: "numbers", title: "guessed" }, guess.verdict || "guessed"),
        element("span", { class: "numbers", title: `on at ${count(set.on[feature])} tokens` }, percent(set.density(feature), 2)),
      ),
    );
  }
}
