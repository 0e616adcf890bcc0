/** Finding components and edges by what people type: `9.3`, `L9H3`, `a9.h3`, `m4`, `m0.f17>2`, a label, or `a5.h1 > a9`. */

import type { Component } from "../graph";
import type { Scene } from "./scene";

export type Found = { node: Component } | { edge: number };

const MOST = 12;
const INTO = /\s*(?:->|→)\s*|\s+>\s*|>(?!\d+(?:\s|$))\s*/; // no `>` of a place's name

export function search(scene: Scene, labels: ReadonlyMap<string, string>, typed: string): Found[] {
  const text = typed.trim();
  if (!text) return [];
  const [from, to] = text.split(INTO);
  if (to !== undefined) return edges(scene, labels, from, to);
  const matches = matcher(text);
  const { graph } = scene;
  const found = graph.components.filter((c) => matches(graph.name(c), labels.get(graph.name(c))));
  const exact = (c: Component) => (graph.name(c) === plain(text) ? 0 : 1);
  const meet = (c: Component) => scene.inputs[c] + scene.outputs[c];
  return found
    .sort((a, b) => exact(a) - exact(b) || meet(b) - meet(a))
    .slice(0, MOST)
    .map((node) => ({ node }));
}

function edges(scene: Scene, labels: ReadonlyMap<string, string>, from: string, to: string): Found[] {
  const { graph } = scene;
  const [writes, reads] = [matcher(from), matcher(to)];
  const found: Found[] = [];
  for (const edge of scene.edges) {
    const writer = graph.writers[graph.writerOf(edge)];
    const reader = graph.readers[graph.readerOf(edge)];
    if (writes(writer, labels.get(writer)) && reads(reader, undefined)) found.push({ edge });
    if (found.length === MOST) break;
  }
  return found;
}

/** Whether a name, or a label, is what was typed; nothing typed is every name. */
function matcher(typed: string): (name: string, label: string | undefined) => boolean {
  const text = plain(typed);
  const word = typed.trim().toLowerCase();
  return (name, label) => !word || name.startsWith(text) || name.includes(word) || !!label?.toLowerCase().includes(word);
}

/** `9.3`, `L9H3` and `l9 h3` are `a9.h3`. */
function plain(typed: string): string {
  const text = typed.trim().toLowerCase();
  const head = /^(?:l|a)?(\d+)(?:\s*\.?\s*h|\.|\s+)(\d+)$/.exec(text);
  return head ? `a${head[1]}.h${head[2]}` : text;
}
