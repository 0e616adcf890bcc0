"""What several processes do together in `test_ranks.py`, each of them the same calls."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from edgewise.attribution import AttributionConfig, attribute
from edgewise.circuit import Circuit
from edgewise.discovery import acdc, eap, eap_ig, edge_pruning, exact_patching, learned_engine
from edgewise.evaluation._judge import judge
from edgewise.runs import Ranks, processes
from tests.discovery.toys import LEARNED, PRESETS, find, quiet, random_task, toy_engine
from tests.tiny import tiny

LONG = replace(PRESETS["ours"], steps=30)
"""Long enough to be killed on the way."""


def everything(out: Path, shares: int | None = None) -> None:
    """Every kind of work that is shared out; the first process writes what came of it."""
    with processes(torch.device("cpu"), shares) as ranks:
        for name, config in LEARNED.items():
            find(out / name, replace(config, steps=3), engine=toy_engine(ranks=ranks))
        learned_constants(out / "constants", ranks)
        others(out, ranks)


def learned_constants(out: Path, ranks: Ranks) -> None:
    task = random_task()
    engine = learned_engine(tiny("gpt2", torch.float32), task, ranks=ranks)
    edge_pruning(engine, task, replace(PRESETS["ours"], steps=3), options=quiet(out))


def others(out: Path, ranks: Ranks) -> None:
    engine, task = toy_engine(ranks=ranks), random_task(7)
    scores = eap(engine, task, batch_size=2)
    cut = acdc(engine, task, threshold=0.01, pairs=2, options=quiet())
    exact = exact_patching(engine, task, pairs=2, options=quiet())
    few = torch.zeros(engine.graph.n_edges, dtype=torch.bool)
    few[::3] = True
    judged = judge(engine, {"few": Circuit(engine.graph, few)}, task, "train", 2, names=("kl", "logit_diff"))
    ids = list(task.train[0].clean)
    graph = attribute(engine.model, ids, config=AttributionConfig(max_nodes=60, batch=20), options=quiet(), ranks=ranks)
    found = {
        "eap": scores.values,
        "eap-ig": eap_ig(engine, task, batch_size=3, points=2).values,
        "acdc": cut.kept,
        "exact": exact.values,
        "judged": torch.from_numpy(np.stack([*judged["few"].values(), *judged["full"].values()])),
        "graph": graph.weight,
        "passes": torch.tensor(scores.provenance["cost"]["backwards_per_example"]),
    }
    if ranks.rank == 0:
        save_file(found, out / "values.safetensors")


def long_run(out: Path, shares: int) -> None:
    with processes(torch.device("cpu"), shares) as ranks:
        find(out, LONG, engine=toy_engine(ranks=ranks))
