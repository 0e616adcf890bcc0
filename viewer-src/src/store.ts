/** What is looked at, as one value: it can be undone, and stands in the address's fragment. */

/** How a state is written in a fragment, and read from one. */
export interface Fragment<S> {
  write(state: S): URLSearchParams;
  /** Whatever the fragment says that fits; the rest as it begins. */
  read(parameters: URLSearchParams): S;
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

export class Store<S extends object> {
  private past: S[] = [];
  private future: S[] = [];
  private current: S;
  private changed = { what: "", when: 0 };
  private waiting: ReturnType<typeof setTimeout> | null = null;

  private readonly follow = (): void => {
    const found = location.hash.slice(1);
    if (found !== this.written()) this.keep("", this.fragment.read(new URLSearchParams(found)));
  };

  constructor(
    private readonly fragment: Fragment<S>,
    private readonly show: (state: S, before: S | null) => void,
  ) {
    this.current = fragment.read(new URLSearchParams(location.hash.slice(1)));
    addEventListener("hashchange", this.follow);
  }

  /** Listen no more. */
  stop(): void {
    removeEventListener("hashchange", this.follow);
    if (this.waiting !== null) clearTimeout(this.waiting);
  }

  get state(): S {
    return this.current;
  }

  get canUndo(): boolean {
    return this.past.length > 0;
  }

  get canRedo(): boolean {
    return this.future.length > 0;
  }

  /** Show the first state. */
  start(): void {
    this.show(this.current, null);
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
    this.future = [];
    this.enter(state);
  }

  private enter(state: S): void {
    const before = this.current;
    this.current = state;
    this.waiting ??= setTimeout(() => this.writeAddress(), ADDRESS_AFTER);
    this.show(state, before);
  }

  private writeAddress(): void {
    this.waiting = null;
    putAddress(this.written());
  }

  private written(): string {
    return this.fragment.write(this.current).toString();
  }
}
