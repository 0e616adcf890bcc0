/** Begins: reads what the page carries and shows it, or says why it cannot. */

import "./style.css";
import { CircuitApp } from "./circuits/app";
import { element } from "./dom";
import { readPage } from "./data";

async function main(): Promise<void> {
  const root = document.getElementById("app")!;
  try {
    const page = await readPage();
    new CircuitApp(root, page);
    root.dataset.ready = "yes";
  } catch (error) {
    root.append(element("p", { class: "message", role: "alert" }, `This page cannot be shown: ${(error as Error).message}`));
  }
}

void main();
