/** An attribution graph of edgewise, from the page's arrays. */

import { type AttributionHeader, type PageData, textOf } from "../data";
import type { Parts } from "./graph";

export function own(page: PageData, header: AttributionHeader): Parts {
  const at = (name: string) => `${header.arrays}/${name}`;
  const texts = JSON.parse(textOf(page, at("texts"))) as { ids: string[]; labels: string[] };
  const ledger = header.ledger && {
    residual: page.array(at("residual"), "f4"),
    size: page.array(at("size"), "f4"),
    outside: page.array(at("outside"), "f4"),
    outsideSize: page.array(at("outside_size"), "f4"),
  };
  return {
    title: header.title,
    tokens: header.tokens,
    kind: page.array(at("kind"), "u1"),
    layer: page.array(at("layer"), "i2"),
    position: page.array(at("position"), "i4"),
    value: page.array(at("value"), "f4"),
    ids: texts.ids,
    labels: texts.labels,
    rootWeight: page.array(at("root_weight"), "f8"),
    share: null,
    offsets: page.array(at("offsets"), "u4"),
    sources: page.array(at("sources"), "u4"),
    weight: page.array(at("weight"), "f4"),
    ledger: ledger || null,
    about: header.about,
    notes: [],
  };
}
