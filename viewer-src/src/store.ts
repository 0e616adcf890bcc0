/** What is looked at, as one value: it can be undone, and stands in the address's fragment. */

import { afterPress, isLeavingField } from "./dom";
import type { Documents } from "./shell";

/** How a state is written in a fragment, and read from one. */
export interface Fragment<S> {
  write(state: S): URLSearchParams;
  /** Whatever the fragment says that fits; the rest as it begins. */
  read(parameters: URLSearchParams): S;
}

/** What may be undone and redone, and where one stands: it outlives the view, so that a document is come back to. */
export interface History {
  past: object[];
  future: object[];
  present: object | null;
  /** What is being written, and is no state yet. */
  draft?: object;
}

export function newHistory(): History {
  return { past: [], future: [], present: null };
}

const ADDRESS_AFTER = 200; // ms: browsers refuse an address that changes with every move of a slider
const TOGETHER = 600; // ms within which changes of the same thing, as of a slider that is drawn, are undone at once

/** Put a fragment in the address, where there is one: within a notebook's frame there is none. */
export function putAddress(fragment: string): void {
  try {
    history.replaceState(null, "", `#${fragment}`);
  } catch {
    // the page goes on without it
  }
}

/** The fragment that somebody went to. By now a change that was waiting may have put its own in the address. */
export function fragmentOf(event: Event): string {
  const to = (event as HashChangeEvent).newURL;
  return (to ? new URL(to).hash : location.hash).slice(1);
}

export class Store<S extends object> {
  private readonly past: S[];
  private readonly future: S[];
  private current: S;
  private shown: S | null = null;
  private changed = { what: "", when: 0 };
  private waiting: ReturnType<typeof setTimeout> | null = null;

  private readonly follow = (event: Event): void => {
    const found = fragmentOf(event);
    if (found !== this.address) this.keep("", this.fragment.read(new URLSearchParams(found)));
  };

  constructor(
    private readonly fragment: Fragment<S>,
    private readonly documents: Documents,
    private readonly show: (state: S, before: S | null) => void,
  ) {
    const { past, future, present } = documents.history;
    [this.past, this.future] = [past as S[], future as S[]];
    const address = new URLSearchParams(documents.address);
    const left = present as S | null;
    const isSame = left !== null && this.written(left) === address.toString();
    if (left && !isSame) {
      // Another address than it was left with leads here, as a link does.
      past.push(left);
      future.length = 0;
    }
    this.current = isSame ? left : fragment.read(address);
    addEventListener("hashchange", this.follow);
  }

  /** Listen no more. */
  stop(): void {
    this.documents.history.present = this.current;
    removeEventListener("hashchange", this.follow);
    if (this.waiting !== null) clearTimeout(this.waiting);
  }

  get state(): S {
    return this.current;
  }

  /** The state as a fragment, which names its document if that is not the page's first. */
  get address(): string {
    return this.written(this.current);
  }

  private written(state: S): string {
    const found = this.fragment.write(state);
    if (this.documents.current) found.set("doc", String(this.documents.current));
    return found.toString();
  }

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  get canRedo(): boolean {
    return this.future.length > 0;
  }

  /** Show the first state. */
  start(): void {
    this.tell();
  }

  change(part: Partial<S>): void {
    const names = Object.keys(part) as (keyof S)[];
    if (names.every((name) => this.current[name] === part[name])) return;
    this.keep(names.join(), { ...this.current, ...part });
  }

  undo(): void {
    this.step(this.past, this.future);
  }

  redo(): void {
    this.step(this.future, this.past);
  }

  private step(from: S[], to: S[]): void {
    const state = from.pop();
    if (!state) return;
    to.push(this.current);
    this.changed.what = "";
    this.enter(state);
  }

  private keep(what: string, state: S): void {
    const now = performance.now();
    if (!what || what !== this.changed.what || now - this.changed.when > TOGETHER) this.past.push(this.current);
    this.changed = { what, when: now };
    this.future.length = 0;
    this.enter(state);
  }

  private enter(state: S): void {
    this.current = state;
    this.waiting ??= setTimeout(() => this.writeAddress(), ADDRESS_AFTER);
    if (isLeavingField()) afterPress(() => this.tell());
    else this.tell();
  }

  private tell(): void {
    const before = this.shown;
    this.shown = this.current;
    if (before !== this.shown) this.show(this.shown, before);
  }

  private writeAddress(): void {
    this.waiting = null;
    putAddress(this.address);
  }
}

/** A JSON list of texts, of so many if `n` says so; an empty one for anything else. */
export function texts(text: string, n?: number): string[] {
  try {
    const value: unknown = JSON.parse(text);
    const fits = Array.isArray(value) && (n === undefined || value.length === n) && value.every((each) => typeof each === "string");
    return fits ? value : [];
  } catch {
    return [];
  }
}
