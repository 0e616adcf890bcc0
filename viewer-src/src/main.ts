/** Begins: reads what the page carries and shows it, or says why it cannot. In a worker, it does the worker's sums. */

import "./style/frame.css";
import "./style/panel.css";
import "./style/graph.css";
import "./style/features.css";
import "./style/screens.css";
import { type App, type Documents } from "./shell";
import { parse, readFile } from "./attribution/foreign";
import { type PageData, readPage, textOf } from "./data";
import { answerQuestions } from "./attribution/background";
import { CircuitApp } from "./circuits/app";
import { element } from "./dom";
import { FeaturesApp } from "./features/app";
import { GraphApp } from "./attribution/app";
import { labelOf } from "./attribution/names";
import { own } from "./attribution/own";
import type { Labels } from "./labels";
import type { Dashboard, Parts } from "./attribution/graph";
import { followSystem } from "./theme";
import { fragmentOf, type History, newHistory, putAddress } from "./store";

const ABSENT = "The address is of a graph that was opened beside what is in this page: open its file again.";

interface Document {
  name: string;
  open(root: HTMLElement, documents: Documents): App;
}

class Viewer {
  private app: App | null = null;
  private current = 0;
  /** Of each document that was left: what was looked at. */
  private readonly addresses: string[] = [];
  /** Of each document: what may be undone and redone. */
  private readonly histories = new Map<Document, History>();
  private readonly documents: Document[];
  /** Words for nodes and features that came with the page. */
  private readonly labels: Labels;

  constructor(
    private readonly root: HTMLElement,
    page: PageData,
  ) {
    this.labels = new Map(page.header.labels);
    const graph = (name: string, parts: () => Parts): Document => ({
      name,
      open: (place, documents) => new GraphApp(place, this.labelled(parts()), documents, this.labels),
    });
    const { circuits, attributions, foreign, features } = page.header;
    const all: Document = {
      name: circuits.map((each) => each.label).join(", "),
      open: (place, documents) => new CircuitApp(place, page, documents),
    };
    this.documents = [
      ...(circuits.length ? [all] : []),
      ...attributions.map((each) => graph(each.title, () => own(page, each))),
      ...foreign.map((each) => graph(each.name, () => parse(textOf(page, each.array), each.name, dashboards(page, each.array)))),
      ...features.map((each): Document => ({ name: each.name, open: (place, documents) => new FeaturesApp(place, page, each, documents) })),
    ];
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      const file = event.dataTransfer?.files[0];
      if (file) void this.openFile(file);
    });
    // Before any view hears of it, to which the address of another document means nothing.
    addEventListener("hashchange", (event) => this.follow(event));
  }

  /** Look at what the page's address names, or where that cannot be shown, at the first that can. */
  begin(): void {
    const address = location.hash.slice(1);
    const number = numberIn(address);
    const isHere = !!this.documents[number];
    if (isHere) this.addresses[number] = address;
    const wanted = isHere ? number : 0;
    const said: string[] = [];
    for (const each of [wanted, ...[...this.documents.keys()].filter((other) => other !== wanted)]) {
      try {
        this.open(each);
        break;
      } catch (error) {
        said.push((error as Error).message);
      }
    }
    if (!this.app) throw new Error(said.join("; ") || "there is nothing in it");
    if (said.length) putAddress(this.app.address);
    if (!isHere) said.push(ABSENT);
    if (said.length) this.app.shell.complain(said.join("; "));
  }

  private follow(event: Event): void {
    const address = fragmentOf(event);
    const number = numberIn(address);
    if (number === this.current) return;
    event.stopImmediatePropagation();
    const back = () => this.app && putAddress(this.app.address);
    if (this.documents[number]) {
      this.addresses[number] = address;
      this.tryTo(this.documents[number].name, () => this.open(number), back);
    } else {
      this.app?.shell.complain(ABSENT);
      back();
    }
  }

  private open(number: number): void {
    const before = this.app;
    const place = element("div", { class: "app" });
    const chosen = this.documents[number];
    if (!chosen) throw new Error("there is nothing in it");
    if (before) this.addresses[this.current] = before.address;
    let made: App;
    try {
      made = chosen.open(place, {
        names: this.documents.map((each) => each.name),
        current: number,
        address: this.addresses[number] ?? "",
        history: this.historyOf(chosen),
        open: (other) => this.tryTo(this.documents[other].name, () => this.open(other)),
        openFile: (file) => void this.openFile(file),
      });
    } catch (error) {
      throw new Error(`${chosen.name}: ${(error as Error).message}`);
    }
    const byChooser = document.activeElement?.matches("h1 select");
    before?.stop();
    this.app = made;
    this.current = number;
    this.root.replaceChildren(place);
    made.start();
    if (before) putAddress(made.address);
    if (byChooser) place.querySelector<HTMLElement>("h1 select")?.focus();
  }

  private historyOf(chosen: Document): History {
    const found = this.histories.get(chosen) ?? newHistory();
    this.histories.set(chosen, found);
    return found;
  }

  /** A graph with the words that the page has for its nodes. */
  private labelled(parts: Parts): Parts {
    const { labels } = this;
    return { ...parts, labels: parts.labels.map((own, node) => labelOf(labels, parts.ids[node], parts.kind[node]) ?? own) };
  }

  private async openFile(file: File): Promise<void> {
    let parts: Parts;
    try {
      parts = await readFile(file);
    } catch (error) {
      this.app?.shell.complain(`${file.name}: ${(error as Error).message}`);
      return;
    }
    const opened: Document = { name: file.name, open: (place, documents) => new GraphApp(place, this.labelled(parts), documents, this.labels) };
    this.documents.push(opened);
    this.tryTo(file.name, () => this.open(this.documents.length - 1), () => this.documents.pop());
  }

  private tryTo(name: string, what: () => void, otherwise?: () => void): void {
    try {
      what();
    } catch (error) {
      otherwise?.();
      const said = (error as Error).message;
      this.app?.shell.complain(said.startsWith(name) ? said : `${name}: ${said}`);
    }
  }
}

/** The dashboards that were put into the page beside a file. */
function dashboards(page: PageData, array: string): ReadonlyMap<string, Dashboard> {
  return new Map(Object.entries(JSON.parse(textOf(page, `${array}/dashboards`)) as Record<string, Dashboard>));
}

/** Which of the page's documents an address is of. */
function numberIn(address: string): number {
  return Number(new URLSearchParams(address).get("doc") ?? 0);
}

async function main(): Promise<void> {
  const root = document.getElementById("app")!;
  followSystem();
  try {
    new Viewer(root, await readPage()).begin();
  } catch (error) {
    const said = element("p", { class: "message", role: "alert" }, `This page cannot be shown: ${(error as Error).message}`);
    root.replaceChildren(said);
  }
  root.dataset.ready = "yes";
}

if (typeof document === "undefined") answerQuestions();
else void main();
