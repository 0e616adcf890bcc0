/** For the tests alone: reads graphs from many texts, shows each, and gives back what was said of it. */

import { type Documents } from "../src/shell";
import { GraphApp } from "../src/attribution/app";
import { newHistory } from "../src/store";
import { parse } from "../src/attribution/foreign";

const documents: Documents = { names: ["graph"], current: 0, address: "", history: newHistory(), open: () => undefined, openFile: () => undefined };

/** For each text the message with which it is refused, or nothing where it is shown. */
function tryGraphs(texts: string[]): string[] {
  return texts.map((text) => {
    const place = document.createElement("div");
    document.body.replaceChildren(place);
    location.hash = "";
    try {
      const app = new GraphApp(place, parse(text, "graph.json"), { ...documents, history: newHistory() }, new Map());
      app.start();
      for (const row of place.querySelectorAll<HTMLElement>(".panel .row")) row.click();
      app.stop();
      return "";
    } catch (error) {
      return `${(error as Error).name}: ${(error as Error).message}`;
    }
  });
}

Object.assign(globalThis, { tryGraphs });
