/** Blind reading: a guess first, the text then, and a sheet of how true the guesses were found. */

import { button, type Child, element } from "../dom";
import { type FeatureState, type Guess, type Verdict, VERDICTS } from "./state";
import type { FeatureSet } from "./set";
import { save } from "../files";

const LONGEST = 500;

/** Where a guess is written. `drafts` keep what is not committed yet, since every change makes the field anew. */
export function question(name: string, drafts: Map<string, string>, commit: (words: string) => void): HTMLElement {
  const words = element("textarea", {
    rows: 2,
    maxlength: LONGEST,
    placeholder: "When is it on? Write what you think before you see any text.",
    "aria-label": `Guess of ${name}`,
  });
  words.value = drafts.get(name) ?? "";
  words.addEventListener("input", () => drafts.set(name, words.value));
  const told = () => words.value.trim() && commit(words.value.trim());
  words.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) told();
  });
  return element("section", { class: "guess", "aria-label": "Your guess" }, words, button("Commit to this guess", () => told(), { title: "Ctrl+Enter" }));
}

/** A guess beside the text, and how true it is. */
export function answer(name: string, guess: Guess, judge: (verdict: Verdict) => void): HTMLElement {
  const verdicts = VERDICTS.map((each) =>
    button(each, () => judge(guess.verdict === each ? "" : each), { "aria-pressed": String(guess.verdict === each) }),
  );
  return element(
    "section",
    { class: "guess", "aria-label": "Your guess" },
    element("p", {}, element("b", {}, "Your guess: "), element("bdi", {}, guess.words)),
    element("p", { class: "chips", role: "group", "aria-label": `How true the guess of ${name} is` }, "It was ", ...verdicts),
  );
}

/** How many guesses there are, and the sheet. */
export function tally(set: FeatureSet, state: FeatureState): Child[] {
  if (!state.guesses.size) return [];
  const verdicts = [...state.guesses.values()].map((guess) => guess.verdict);
  const counts = VERDICTS.map((each) => `${verdicts.filter((verdict) => verdict === each).length} ${each}`);
  return [`${state.guesses.size} guessed: ${counts.join(", ")} `, button("Save the score sheet", () => sheet(set, state))];
}

function sheet(set: FeatureSet, state: FeatureState): void {
  const rows = [...state.guesses].map(([name, guess]) => {
    const feature = set.feature(name);
    const density = feature === null ? "" : String(set.density(feature));
    return [name, guess.words, guess.verdict, state.labels.get(name) ?? "", density];
  });
  const text = [["id", "guess", "verdict", "label", "density"], ...rows].map((row) => row.map(cell).join(",")).join("\r\n");
  save(`${set.header.name}-guesses.csv`, new Blob([`${text}\r\n`], { type: "text/csv" }));
}

/** A cell of CSV; one that a spreadsheet would take for a formula begins with an apostrophe. */
function cell(text: string): string {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
