/** What every view has around it: the bar at the top, keys, search, saving, and what is read aloud. */

import { button, element, fill, terms } from "./dom";
import { onThemeChange, switchTheme } from "./theme";
import { pick, type Picture, savePng, saveSvg } from "./files";
import type { History } from "./store";

export interface Hit {
  name: string;
  enter(): void;
}

/** What a page has to look at, and how to look at another of it. */
export interface Documents {
  names: string[];
  current: number;
  /** The fragment that the view begins with. */
  address: string;
  /** What was done in the document when it was looked at before. */
  history: History;
  open(number: number): void;
  /** Look at a graph in a file. */
  openFile(file: File): void;
}

/** A view that holds the page until it is stopped. */
export interface App {
  readonly shell: Shell;
  /** What is looked at, as a fragment. */
  readonly address: string;
  /** Show the first picture, once the view is in the page. */
  start(): void;
  stop(): void;
}

export interface View {
  title: string;
  /** What may be searched for; or where the view itself searches. */
  search: { hint: string; find(text: string): Hit[] } | HTMLInputElement;
  /** What `[` and `]` do. */
  steps: string;
  /** Keys of this view alone, and what they do. */
  keys: [string, string][];
  /** Words and signs of this view, and what they mean. */
  words?: [string, string][];
  /** What may be saved as a picture; null where there is none. */
  picture: (() => Picture | null) | null;
  redraw(): void;
  undo(): void;
  redo(): void;
  /** Choose nothing. */
  clear(): void;
  /** Make the circuit or graph larger (or smaller) by some steps. */
  resize(by: number): void;
  saveLabels(): void;
  loadLabels(text: string): void;
}

const SEARCH: [string, string] = ["/", "search"];
const KEYS: [string, string][] = [
  ["Escape", "choose nothing"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
  ["t", "light or dark"],
  ["?", "this help"],
];
const STEP = 10; // of the slider's thousand

export class Shell {
  readonly bar: HTMLElement;
  readonly live = element("p", { class: "aloud", role: "status", "aria-live": "polite" });
  private readonly undo: HTMLButtonElement;
  private readonly redo: HTMLButtonElement;
  private readonly query: HTMLInputElement;
  private readonly hits = element("ul", { class: "hits", hidden: true });
  private readonly help: HTMLDialogElement;
  private readonly message = element("p", { class: "message", role: "alert", hidden: true });

  private readonly menu = element("details", { class: "menu" }, element("summary", { title: "Save, open, print" }, "File"));
  private readonly listening = new AbortController();

  constructor(
    private readonly view: View,
    private readonly documents: Documents,
  ) {
    const { search } = view;
    const own = search instanceof HTMLInputElement;
    this.query = own ? search : element("input", { type: "search", placeholder: `search: ${search.hint}`, "aria-label": "Search" });
    this.undo = button("↶", () => view.undo(), { "aria-label": "Undo", title: "Undo (Ctrl+Z)" });
    this.redo = button("↷", () => view.redo(), { "aria-label": "Redo", title: "Redo (Ctrl+Shift+Z)" });
    this.help = element(
      "dialog",
      { "aria-label": "Help" },
      ...(view.words ? [element("h2", {}, "What is shown"), terms(view.words)] : []),
      element("h2", {}, "Keys"),
      terms([SEARCH, ["[ and ]", view.steps], ...KEYS, ...view.keys]),
      button("Close", () => this.help.close()),
    );
    const box = element("div", { class: "search" }, ...(own ? [] : [this.query, this.hits]));
    this.bar = element(
      "header",
      {},
      documents.names.length > 1 ? this.chooser() : element("h1", {}, view.title),
      !own && box,
      this.undo,
      this.redo,
      this.menu,
      button("◐", () => this.switchTheme(), { "aria-label": "Light or dark", title: "Light or dark (t)" }),
      button("?", () => this.help.showModal(), { "aria-label": "Help", title: "Help (?)" }),
      this.help,
      this.message,
    );
    if (!own) {
      for (const event of ["input", "focus"]) this.query.addEventListener(event, () => this.showHits(search.find(this.query.value)));
      box.addEventListener("focusout", ({ relatedTarget: to }) => to && !box.contains(to as Node) && (this.hits.hidden = true));
      this.query.addEventListener("keydown", (event) => this.searchKey(event));
      this.hits.addEventListener("keydown", (event) => this.hitKey(event));
    }
    this.fillMenu();
    const until = { signal: this.listening.signal };
    document.addEventListener("keydown", (event) => this.key(event), until);
    const elsewhere = ({ target }: Event) => {
      if (!this.menu.contains(target as Node)) this.menu.open = false;
      if (!box.contains(target as Node)) this.hits.hidden = true;
    };
    document.addEventListener("pointerdown", elsewhere, until);
    onThemeChange(() => view.redraw(), until);
  }

  /** Listen no more. */
  stop(): void {
    this.listening.abort();
  }

  /** Say something to those who do not see the picture. */
  say(words: string): void {
    if (this.live.textContent !== words) this.live.textContent = words;
  }

  /** Whether there is anything to undo and to redo. */
  allow(undo: boolean, redo: boolean): void {
    this.undo.disabled = !undo;
    this.redo.disabled = !redo;
  }

  /** Say what went wrong. */
  complain(words: string): void {
    fill(this.message, words, " ", button("×", () => (this.message.hidden = true), { "aria-label": "Close" }));
    this.message.hidden = false;
  }

  private chooser(): HTMLElement {
    const { names, current, open } = this.documents;
    const select = element("select", { "aria-label": "Shown" }, ...names.map((name, i) => element("option", { value: i }, name)));
    select.value = String(current);
    select.addEventListener("change", () => {
      open(Number(select.value));
      select.value = String(current); // where the other cannot be shown, this view stays
    });
    return element("h1", {}, select);
  }

  private fillMenu(): void {
    const { view, documents, menu } = this;
    const name = view.title.replace(/[^\w.-]+/g, "-") || "circuit";
    const { picture } = view;
    const save = (words: string, how: (name: string, picture: Picture) => void): [string, () => void][] => {
      const made = () => {
        const found = picture!();
        if (found) how(name, found);
      };
      return picture ? [[words, made]] : [];
    };
    const items: [string, () => void][] = [
      ...save("Picture as PNG", (name, found) => savePng(name, found, (words) => this.complain(words))),
      ...save("Picture as SVG", saveSvg),
      ["Labels to a file", () => view.saveLabels()],
      ["Labels from a file", () => pick(".json", (file) => void this.load(file))],
      ["Open a graph (JSON)", () => pick(".json", (file) => documents.openFile(file))],
      ["Print", () => print()],
    ];
    const choose = (what: () => void) => () => {
      menu.open = false;
      what();
    };
    menu.append(element("ul", {}, ...items.map(([words, what]) => element("li", {}, button(words, choose(what))))));
  }

  private async load(file: File): Promise<void> {
    try {
      this.view.loadLabels(await file.text());
    } catch (error) {
      this.complain(`${file.name}: ${(error as Error).message}`);
    }
  }

  private showHits(found: Hit[]): void {
    fill(this.hits, ...found.map((hit) => element("li", {}, button(hit.name, () => this.enter(hit)))));
    if (!found.length && this.query.value.trim()) this.hits.append(element("li", { class: "none" }, "nothing of that name"));
    this.hits.hidden = !this.query.value.trim();
  }

  private enter(hit: Hit): void {
    this.query.value = "";
    this.hits.hidden = true;
    this.query.blur();
    hit.enter();
  }

  private searchKey(event: KeyboardEvent): void {
    if (event.key === "Enter") this.hits.querySelector("button")?.click();
    if (event.key === "ArrowDown") this.hits.querySelector("button")?.focus();
    if (event.key === "Escape") {
      this.query.value = "";
      this.hits.hidden = true;
      this.query.blur();
    }
  }

  private hitKey(event: KeyboardEvent): void {
    const item = document.activeElement?.closest("li");
    const next = event.key === "ArrowDown" ? item?.nextElementSibling : event.key === "ArrowUp" ? item?.previousElementSibling : null;
    if (next) next.querySelector("button")?.focus();
    else if (event.key === "ArrowUp") this.query.focus();
    if (event.key !== "Escape") return;
    event.stopPropagation(); // by which the view would choose nothing
    this.query.focus();
    this.hits.hidden = true;
  }

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (target.closest("input:not([type=range]), textarea, select, dialog")) return;
    if (event.ctrlKey || event.metaKey) {
      if (event.key.toLowerCase() !== "z") return;
      event.preventDefault();
      if (event.shiftKey) this.view.redo();
      else this.view.undo();
      return;
    }
    const does = new Map<string, () => void>([
      ["/", () => this.query.focus()],
      ["[", () => this.view.resize(-STEP)],
      ["]", () => this.view.resize(STEP)],
      ["Escape", () => this.leave()],
      ["t", () => this.switchTheme()],
      ["?", () => this.help.showModal()],
    ]).get(event.key);
    if (!does) return;
    event.preventDefault();
    does();
  }

  /** Close the menu; if it is closed, choose nothing. */
  private leave(): void {
    if (!this.menu.open) return this.view.clear();
    this.menu.open = false;
    this.menu.querySelector("summary")?.focus();
  }

  private switchTheme(): void {
    switchTheme();
    this.view.redraw();
  }
}
