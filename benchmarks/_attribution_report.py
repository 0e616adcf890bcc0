"""The tables of attribution graphs on real prompts, from what `attribution_prompts.py` left."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from edgewise.runs import bootstrap

TOP = 20
"""How many heads of a graph are held against another's or the circuit's."""
Found = dict[str, dict[str, Any]]
Rows = list[tuple[str, ...]]


def tables(found: Found, circuit: dict[str, int], trained_on: int | None = None) -> str:
    """All of them, as Markdown; the transcoders saw so many tokens."""
    parts = [*_validation(found), *_gates(found), *_kinds(found, trained_on), *_heads(found, circuit)]
    return "\n".join(("", *parts))


def _groups(found: Found) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Prompts by task and kind of nodes."""
    groups = defaultdict[tuple[str, str], list[dict[str, Any]]](list)
    for name, each in found.items():
        task, _, kind = name.split(".")
        groups[task, kind].append(each)
    return groups


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def _mean(values: Sequence[float | None]) -> str:
    known = np.array([value for value in values if value is not None])
    return f"{bootstrap(known):.2f}" if len(known) else "–"


def _set(each: dict[str, Any], name: str) -> tuple[float, float]:
    """The share of the pruned graph, and the mean of random sets."""
    _, _, share, random = each["validation"][name]
    return share, float(np.mean(random))


def _validation(found: Found) -> list[str]:
    """Predicted against real, necessity and sufficiency."""
    effects: Rows = [("task", "nodes", "prompts", "difference", "all paths", "direct edge", "later tokens", "slope")]
    sets: Rows = [("task", "nodes", "pruned, of active", "necessity", "random", "sufficiency", "random")]
    scores: Rows = [("task", "nodes", "replacement, pruned", "completeness, pruned", "outside", "largest residual")]
    for (task, kind), prompts in _groups(found).items():
        if kind.startswith("gate"):
            continue
        checked = [each["validation"] for each in prompts]
        figures = [
            _mean([each["figures"][name] for each in prompts])
            for name in ("spearman", "spearman_direct", "spearman_later", "slope")
        ]
        effects.append((task, kind, str(len(prompts)), _mean([each["value"] for each in checked]), *figures))
        size = f"{np.mean([x['n_pruned'] for x in checked]):,.0f} of {np.mean([x['n_active'] for x in checked]):,.0f}"
        shares = [[_set(each, name) for each in prompts] for name in ("necessity", "sufficiency")]
        sets.append((task, kind, size, *(_mean([pair[i] for pair in pairs]) for pairs in shares for i in (0, 1))))
        pruned = (_mean([each["pruned_scores"][i] for each in checked]) for i in (0, 1))
        outside, worst = _mean([each["outside"] for each in checked]), max(each["residual"] for each in checked)
        scores.append((task, kind, *pruned, outside, f"{worst:.0e}"))
    return [
        "## What the graph says, and what ablation does",
        "",
        "The 50 most influential nodes of each graph, ablated one by one: Spearman's correlation of the predicted and",
        "the real change, by all paths and by the edge to the root alone; *later tokens* leaves out the first token's.",
        "",
        *_table(effects),
        "",
        "All nodes of the pruned graph ablated at once (necessity: the share of the difference that is lost), and all",
        "other active nodes (sufficiency: the share that is kept), beside 20 random sets with as many in every layer.",
        "",
        *_table(sets),
        "",
        "The pruned graph's scores, the share of all edges, by size, that the graph before pruning leaves out, and the",
        "largest relative residual of a node (all as [here](../attribution.md)).",
        "",
        *_table(scores),
        "",
    ]


def _gates(found: Found) -> list[str]:
    """The three rules for products."""
    rules, groups = {"half": "neurons-128", "up": "gate-up", "gate": "gate-gate"}, _groups(found)
    rows: Rows = [("task", *(f"{rule}: {what}" for rule in rules for what in ("Spearman", "later tokens")))]
    for task in dict.fromkeys(task for task, kind in groups if kind == "gate-up"):
        rows.append((
            task,
            *(
                _mean([each["figures"][name] for each in groups[task, kind]])
                for kind in rules.values()
                for name in ("spearman", "spearman_later")
            ),
        ))  # fmt: skip
    if len(rows) == 1:
        return []
    return [
        "## To which factor of a gated product a neuron's edges go",
        "",
        "Graphs of the 128 neurons that write most at each token and layer, by the three rules; the same correlations.",
        "",
        *_table(rows),
        "",
    ]


def _kinds(found: Found, trained_on: int | None) -> list[str]:
    """Neurons' graphs beside transcoders'."""
    groups = _groups(found)
    names = ("layers and positions, Spearman", f"heads among the first {TOP} of both", "errors: neurons", "transcoders")
    rows: Rows = [("task", *names)]
    for task in dict.fromkeys(task for task, kind in groups if kind == "transcoders"):
        pairs = list(zip(groups[task, "neurons"], groups[task, "transcoders"], strict=True))
        places = [_correlation(a["where"], b["where"]) for a, b in pairs]
        common = [len(set(_top(a)) & set(_top(b))) / TOP for a, b in pairs]
        errors = [[1 - each["validation"]["scores"][0] for each in kind] for kind in zip(*pairs, strict=True)]
        rows.append((task, _mean(places), _mean(common), *map(_mean, errors)))
    if len(rows) == 1:
        return []
    return [
        "## Graphs of neurons and of transcoders",
        "",
        "Of the same prompt: the rank correlation of the influence that each layer has at each position; how many of",
        f"the {TOP} heads with the largest loadings are common; and how much of the influence begins at an error",
        f"(1 − replacement). Each transcoder saw {trained_on or 0:,} tokens; published ones of GPT-2 saw 60 million.",
        "",
        *_table(rows),
        "",
    ]


def _correlation(first: Any, second: Any) -> float:
    ranks = np.stack([rankdata(np.ravel(first)), rankdata(np.ravel(second))])
    return float(np.corrcoef(ranks)[0, 1])


def _name(head: Sequence[Any]) -> str:
    return f"a{head[0]}.h{head[1]}"


def _top(each: dict[str, Any]) -> list[str]:
    return [_name(head) for head in each["heads"][:TOP]]


def _summed(prompts: list[dict[str, Any]]) -> dict[str, tuple[float, dict[str, float]]]:
    """Each head's mean loading, and how much of it goes through pairs of positions of each kind."""
    size, kinds = defaultdict[str, float](float), dict[str, dict[str, float]]()
    for each in prompts:
        for layer, head, loading, relations in each["heads"]:
            name = f"a{layer}.h{head}"
            size[name] += loading / len(prompts)
            mine = kinds.setdefault(name, dict.fromkeys(relations, 0.0))
            for relation, share in relations.items():
                mine[relation] += share * loading / len(prompts)
    return {
        name: (size[name], {relation: part / max(size[name], 1e-30) for relation, part in kinds[name].items()})
        for name in sorted(size, key=lambda name: -size[name])
    }


def _heads(found: Found, circuit: dict[str, int]) -> list[str]:
    """The heads of the graphs of IOI beside those of the learned circuit."""
    summed = _summed(_groups(found)["ioi", "neurons"])
    ordered, placed = list(summed), {name: i + 1 for i, name in enumerate(summed)}
    rows: Rows = [("head", "loading", "same", "after same", "answer", "first", "in the circuit, its best edge's rank")]
    for name in ordered[:TOP]:
        size, kinds = summed[name]
        shares = (f"{kinds[kind]:.0%}" for kind in ("same", "after same", "answer", "first"))
        rows.append((name, f"{size:.1%}", *shares, f"{circuit[name]:,}" if name in circuit else "not in it"))
    first = sorted(circuit, key=circuit.__getitem__)[:TOP]
    missed = [f"{name} (edge {circuit[name]:,}, graphs {placed[name]})" for name in first if placed[name] > 2 * TOP]
    share = len(circuit) / len(summed)
    inside = sum(name in circuit for name in ordered[:TOP])
    return [
        "## Heads of IOI, and the learned circuit's",
        "",
        f"Loadings of the {TOP} largest heads in the neurons' graphs (what flows from the first token left out), how",
        "much of them goes through pairs of positions of a kind (`ew.attribution.RELATIONS`), and whether the",
        f"checked-in circuit ([ioi-ranking](circuits/ioi-ranking.safetensors), {len(circuit)} of {len(summed)} heads,",
        f"{share:.0%}) keeps an edge that leaves the head, with the best rank of one. {inside} of the {TOP} are in it.",
        "",
        *_table(rows),
        "",
        f"Of the circuit's {TOP} first heads, by their best edge, not among the graphs' {2 * TOP} first:",
        f"{', '.join(missed) or 'none'}.",
        "",
    ]
