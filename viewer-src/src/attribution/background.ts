/** Arithmetic beside the page: a worker made of the page's own script, or the page itself where it may have none. */

import { order, scores, type Scores, type Structure } from "./influence";

type Question = { structure: Structure } | { number: number; kept: Uint8Array };
type Answer = { number: number; scores: Scores };

const script = typeof document === "undefined" ? "" : (document.currentScript?.textContent ?? "");

export class Background {
  private worker: Worker | null = null;
  private asked = 0;
  /** What was asked of the worker and is not answered. */
  private open: Uint8Array | null = null;
  private address = "";
  private readonly sorted: Uint32Array;

  constructor(
    private readonly structure: Structure,
    private readonly told: (found: Scores) => void,
  ) {
    this.sorted = order(structure);
    try {
      this.address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
      this.worker = new Worker(this.address);
      this.worker.addEventListener("message", (event: MessageEvent<Answer>) => {
        if (event.data.number !== this.asked) return; // an older one is of no interest
        this.open = null;
        told(event.data.scores);
      });
      this.worker.addEventListener("error", () => {
        this.stop();
        this.worker = null;
        if (this.open) this.answer(this.open);
      });
      this.worker.postMessage({ structure } satisfies Question);
    } catch {
      this.worker = null;
    }
  }

  /** Ask for the scores of the graph with only these features; `told` hears of them. */
  ask(kept: Uint8Array): void {
    this.asked++;
    this.open = kept;
    if (this.worker) this.worker.postMessage({ number: this.asked, kept } satisfies Question);
    else this.answer(kept);
  }

  stop(): void {
    this.worker?.terminate();
    URL.revokeObjectURL(this.address);
  }

  private answer(kept: Uint8Array): void {
    this.open = null;
    this.told(scores(this.structure, this.sorted, kept));
  }
}

/** What the worker does. */
export function answerQuestions(): void {
  let structure: Structure;
  let sorted: Uint32Array;
  addEventListener("message", (event: MessageEvent<Question>) => {
    if ("structure" in event.data) {
      structure = event.data.structure;
      sorted = order(structure);
    } else {
      const { number, kept } = event.data;
      postMessage({ number, scores: scores(structure, sorted, kept) } satisfies Answer);
    }
  });
}
