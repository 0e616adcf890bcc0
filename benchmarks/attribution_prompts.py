"""Attribution graphs of real prompts, held against the model: SmolLM2-135M on IOI, greater-than, capitals, induction.

    edgewise transcoder train --text builtin --text TEXT --hold-out 0.01 --tokens 204800 --pool-tokens 32768 \\
        --precision float32 --out runs/set
    python benchmarks/attribution_prompts.py --out runs/prompts --transcoders runs/set --prompts 3
    python benchmarks/attribution_prompts.py --out runs/prompts --transcoders runs/set --write  # docs/results/

Each prompt's graph explains the mean logit of the right answers minus that of the wrong ones, and is validated by
ablating its nodes to their mean over the prompt. Neurons' graphs are made by each of the three rules for gated
products. What is judged is kept; the command may be stopped, and goes on. What was judged with other settings ends it.
`_attribution_report.py` makes the tables of docs/results/attribution.md; what stands before them is written by hand.
TEXT is a folder with WikiText-2's validation and test texts (2.4 MB; Merity et al. 2016).
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _attribution_report import tables
from _page import RESULTS, held_to, write_page

import edgewise as ew
from edgewise.attribution import (
    AttributionConfig,
    AttributionGraph,
    ValidationConfig,
    heads_of,
    influence,
    prune,
    validate,
)
from edgewise.runs import RunOptions, write_atomically
from edgewise.tasks import Pair

CIRCUIT = RESULTS / "circuits" / "ioi-ranking.safetensors"
TASKS = ("ioi", "greater-than", "capital-country", "induction")
QUIET = RunOptions(progress=False)
FEW = 128
"""Neurons of a layer at each token, in the smaller graphs."""


class Kind(NamedTuple):
    """What the nodes are, and how the graph is made."""

    name: str
    config: AttributionConfig
    nodes: Any = "neurons"


def target(model: ew.Model, pair: Pair) -> dict[str, Any]:
    """What is explained: two tokens' contrast, or a direction where there are more."""
    here = pair.targets[0]
    if len(here.answers) == len(here.wrong) == 1:
        return {"target": [here.answers[0], here.wrong[0]], "contrast": True}
    with torch.enable_grad():
        read = torch.zeros(1, model.parts.d_model, requires_grad=True)
        logits = model.parts.unembed(read)[0]
        difference = logits[list(here.answers)].mean() - logits[list(here.wrong)].mean()
    return {"target": ("answers − wrong", torch.autograd.grad(difference, read)[0][0])}


def jobs(model: ew.Model, kinds: list[Kind], n: int) -> Iterator[tuple[str, Pair, Kind]]:
    """Each prompt with each kind of nodes, and a name for both."""
    for name in TASKS:
        task = ew.tasks.TASKS[name](model.tokenizer, train=1, validation=1, test=n, seed=0)
        for number, pair in enumerate(task.test):
            for kind in kinds:
                yield f"{name}.{number}.{kind.name}", pair, kind


def graph_of(model: ew.Model, pair: Pair, kind: Kind) -> AttributionGraph:
    """What flows to the answer."""
    prompt = pair.clean[: pair.targets[0].position + 1]
    return ew.attribute(model, prompt, kind.nodes, **target(model, pair), config=kind.config, options=QUIET)


def judged(graph: AttributionGraph) -> dict[str, Any]:
    """All that the page says of one graph."""
    found = validate(graph, ValidationConfig(to="mean"))
    prompt = found.prompts[0]
    nodes, mass = graph.nodes, influence(graph)
    where = torch.zeros(graph.n_layers + 1, len(graph.tokens), dtype=torch.float64)
    counted = nodes.is_kind("neuron", "feature")
    where.index_put_((nodes.layer[counted], nodes.position[counted]), mass[counted], accumulate=True)
    heads = heads_of(graph, without_first=True)
    return {
        "tokens": graph.tokens,
        "edges": graph.n_edges,
        "validation": prompt._asdict(),
        "figures": {
            name: getattr(found, name).value for name in ("spearman", "spearman_direct", "spearman_later", "slope")
        },
        "where": where[:-1].tolist(),
        "pruned": prune(graph).n_edges,
        "covered": heads.covered,
        "heads": [[row.layer, row.head, row.size, row.relations] for row in heads.rows],
    }


def circuit_heads() -> dict[str, int]:
    """The heads of the checked-in circuit of `ioi`, and the best rank of an edge that leaves each."""
    circuit = ew.Circuit.load(CIRCUIT)
    graph, scores = circuit.graph, circuit.scores
    assert scores is not None
    rank = torch.empty(graph.n_edges, dtype=torch.long)
    rank[scores.argsort(descending=True)] = torch.arange(graph.n_edges)
    found = dict[str, int]()
    for layer in range(graph.spec.n_layers):
        for head in range(graph.spec.n_heads):
            leaving = circuit.actual & (graph.edge_writer == graph.writer(layer, head))
            if leaving.any():
                found[f"a{layer}.h{head}"] = int(rank[leaving].min()) + 1
    return found


def main() -> None:
    """Make, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--transcoders", type=Path)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--max-nodes", type=int, default=1000)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.write:
        found = {path.stem: json.loads(path.read_text()) for path in sorted(args.out.glob("*.json"))}
        seen = None
        if args.transcoders:
            seen = min(each.provenance["method"]["tokens"] for each in ew.transcoders.read(args.transcoders))
        title = "Attribution graphs of real prompts, held against the model"
        write_page("attribution", title, "attribution_prompts", tables(found, circuit_heads(), seen))
        return
    model = ew.load_model("smollm2-135m")
    plain = AttributionConfig(max_nodes=args.max_nodes)
    kinds = [Kind("neurons", plain), Kind(f"neurons-{FEW}", replace(plain, neurons_per_token=FEW))]
    kinds += [Kind(f"gate-{gate}", replace(plain, neurons_per_token=FEW, gate=gate)) for gate in ("up", "gate")]
    if args.transcoders:
        kinds.append(Kind("transcoders", plain, ew.transcoders.read(args.transcoders)))
    args.out.mkdir(parents=True, exist_ok=True)
    for name, pair, kind in jobs(model, kinds, args.prompts):
        path, asked = args.out / f"{name}.json", dict[str, Any](max_nodes=args.max_nodes)
        if kind.nodes != "neurons":
            asked["transcoders"] = args.transcoders.name
        if path.exists():
            held_to(path, json.loads(path.read_text()), asked)
        else:
            graph = graph_of(model, pair, kind)
            write_atomically(path, json.dumps(judged(graph) | asked))
            print(path, flush=True)


if __name__ == "__main__":
    main()
