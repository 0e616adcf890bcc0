/** An attribution graph of edgewise, from the page's arrays. */

import { type AttributionHeader, type PageData, textOf } from "../data";
import type { Dashboard, Extras, Parts, Reasons, Several, Why } from "./graph";
import { shares } from "./influence";

interface Texts {
  ids: string[];
  labels: string[];
  writes: Record<string, { raises: [string, number][]; lowers: [string, number][] }>;
  dashboards: Record<string, Dashboard>;
}

export function own(page: PageData, header: AttributionHeader): Parts {
  const at = (name: string) => `${header.arrays}/${name}`;
  const texts = JSON.parse(textOf(page, at("texts"))) as Texts;
  const ledger = header.ledger && {
    residual: page.array(at("residual"), "f4"),
    size: page.array(at("size"), "f4"),
    outside: page.array(at("outside"), "f4"),
    outsideSize: page.array(at("outside_size"), "f4"),
  };
  const extras: Extras = {
    several: several(page, header),
    reasons: reasons(page, header),
    writes: new Map(Object.entries(texts.writes)),
    dashboards: new Map(Object.entries(texts.dashboards)),
    tracing: new Map(),
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
    share: extras.several && shares(extras.several.influence),
    offsets: page.array(at("offsets"), "u4"),
    sources: page.array(at("sources"), "u4"),
    weight: page.array(at("weight"), "f4"),
    ledger: ledger || null,
    about: header.about,
    notes: header.notes,
    extras,
  };
}

function several(page: PageData, header: AttributionHeader): Several | null {
  if (!header.several) return null;
  const { kind, names, n_prompts, flows } = header.several;
  const columns = (ends: string) => {
    const prefix = `${header.arrays}/${ends}/`;
    const found = Object.keys(page.header.arrays).filter((name) => name.startsWith(prefix));
    return Object.fromEntries(found.map((name) => [name.slice(prefix.length), page.array(name, "f4")]));
  };
  const influence = page.array(`${header.arrays}/influence`, "f8");
  return { kind, names, prompts: n_prompts, flows, influence, nodes: columns("nodes"), edges: columns("edges") };
}

function reasons(page: PageData, header: AttributionHeader): Reasons | null {
  if (!header.reasons) return null;
  const at = (name: string) => `${header.arrays}/reasons/${name}`;
  return {
    ...header.reasons,
    place: new Map(Array.from(page.array(at("edge"), "u4"), (edge, place) => [edge, place])),
    through: page.array(at("heads"), "f4"),
    past: page.array(at("past"), "f4"),
    later: page.array(at("later"), "f4"),
    whys: JSON.parse(textOf(page, at("whys"))) as (Why | null)[],
  };
}
