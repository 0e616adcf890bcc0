"""Tasks of random prompts for the tiny models, and the smallest graph."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.circuit import Circuit
from edgewise.discovery import (
    EdgePruningConfig,
    NodePruningConfig,
    RankingConfig,
    edge_pruning,
    learn_ranking,
    node_pruning,
)
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.discovery._node_pruning import NodePruningLearner
from edgewise.discovery._ranking import RankingLearner
from edgewise.engine import Engine
from edgewise.graph import Graph, GraphSpec
from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.tasks import Pair, Target, Task
from tests.tiny import VOCABULARY, random_model, tiny

SMALLEST = Graph(GraphSpec(1, 1, 1))
"""Eight edges: embed to q, k, v, m0; a0.h0 to m0; embed, a0.h0 and m0 to logits."""

SHORT: dict[str, Any] = {"steps": 8, "batch_size": 5, "lr_warmup": 2, "sparsity_warmup": 5, "sparsity": 0.8}
PRESETS = {
    "ours": EdgePruningConfig(**SHORT),
    # Started at 0, where masks are fractional: at the published 10, hardly any mask has a gradient in eight steps.
    "paper": EdgePruningConfig.paper(**SHORT, initial=0.0, node_sparsity=0.3),
}

RANKING = RankingConfig(steps=8, batch_size=5)
Learned = EdgePruningConfig | RankingConfig | NodePruningConfig
LEARNED: dict[str, Learned] = {
    **PRESETS,
    "ranking": RANKING,
    "node pruning": NodePruningConfig(steps=8, batch_size=5),
}
"""Every way to learn."""


def random_pairs(n: int, seed: int = 0, shortest: int = 3, longest: int = 12) -> list[Pair]:
    """Random prompts of different lengths; every third pair has two targets, every other one a set of answers."""
    draw = random.Random(seed)
    pairs = []
    for i in range(n):
        length = draw.randint(shortest, longest)
        clean, corrupted = (tuple(draw.choices(range(VOCABULARY), k=length)) for _ in range(2))
        tokens = draw.sample(range(VOCABULARY), 6)
        targets = [Target(length - 1, tuple(tokens[: 1 + i % 2]), tuple(tokens[2:4]))]
        if i % 3 == 0:
            targets += [Target(length // 2, (tokens[4],), (tokens[5],))]
        pairs.append(Pair(clean, corrupted, tuple(targets), "", ""))
    return pairs


def random_task(n: int = 12, **changes: Any) -> Task:
    return Task("toy", random_pairs(n, 1), random_pairs(4, 2), random_pairs(4, 3), **changes)


def toy_engine(name: str = "gpt2", dtype: torch.dtype = torch.float32, **choices: Any) -> Engine:
    """An engine of its own, with nothing cached."""
    return Engine(tiny(name, dtype), **choices)


def quiet(out: Path | None = None, **changes: Any) -> RunOptions:
    """No progress bar, and a checkpoint after every step."""
    return RunOptions(**({"out": out, "progress": False, "checkpoint_seconds": 0.0} | changes))


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that are not the same to the last bit."""
    return [
        name
        for name in one.keys() | other.keys()
        if name not in one.keys() & other.keys() or not _same(one[name], other[name])
    ]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def find(
    out: Path | None,
    config: Learned,
    name: str = "gpt2",
    dtype: torch.dtype = torch.float32,
    task: Task | None = None,
    engine: Engine | None = None,
    **changes: Any,
) -> Circuit:
    """Learn on a toy task, in an engine of its own; a checkpoint after every step if there is a folder."""
    engine, task = engine or toy_engine(name, dtype), task or random_task()
    if isinstance(config, EdgePruningConfig):
        return edge_pruning(engine, task, config, options=quiet(out), **changes)
    if isinstance(config, NodePruningConfig):
        return node_pruning(engine, task, config, options=quiet(out), **changes).at(0.8)
    return learn_ranking(engine, task, config, options=quiet(out), **changes).at(0.8)


def learner(config: Learned) -> EdgePruningLearner | RankingLearner | NodePruningLearner:
    """What `find` runs, at its start."""
    engine, task = toy_engine(), random_task()
    if isinstance(config, EdgePruningConfig):
        learner = EdgePruningLearner(engine, task, config)
    elif isinstance(config, NodePruningConfig):
        learner = NodePruningLearner(engine, task, config)
    else:
        learner = RankingLearner(engine, task, config)
    learner.prepare()
    learner.begin()
    return learner


def near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """The largest difference is at most `tolerance` times the largest expected number."""
    assert found.shape == expected.shape
    error, scale = float((found.double() - expected.double()).abs().max()), float(expected.abs().max())
    assert error <= tolerance * scale, f"{error:.1e} apart, of {scale:.1e}"


def scores_of(circuit: Circuit) -> Tensor:
    assert circuit.scores is not None
    return circuit.scores


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def stop(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException, where: str = "step") -> None:
    """Raise at the beginning of step `at` (counted from 0), or once another method of the learner's has run in it."""
    now = [-1]

    def noting(step: Callable[..., Any]) -> Callable[..., Any]:
        def noting_step(self: Any, number: int):
            now[0] = number
            if where == "step" and number == at:
                raise error
            return step(self, number)

        return noting_step

    def raising(method: Callable[..., Any]) -> Callable[..., Any]:
        def raising_method(self: Any, *arguments: Any):
            result = method(self, *arguments)
            if now[0] == at:
                raise error
            return result

        return raising_method

    for kind in (EdgePruningLearner, RankingLearner, NodePruningLearner):
        if where != "step" and hasattr(kind, where):
            monkeypatch.setattr(kind, where, raising(getattr(kind, where)))
        monkeypatch.setattr(kind, "step", noting(kind.step))


def logit_diff(pair: Pair) -> Callable[[Tensor], Tensor]:
    """Mean over the targets of the logit difference, sets by their logsumexp: of the logits `[S, V]`."""

    def metric(logits: Tensor) -> Tensor:
        each = [
            logits[t.position, list(t.answers)].logsumexp(-1) - logits[t.position, list(t.wrong)].logsumexp(-1)
            for t in pair.targets
        ]
        return torch.stack(each).mean()

    return metric


def linear_model() -> Model:
    """Attention looks everywhere alike and all units of the MLPs are on: a metric is then linear in each mask."""
    model = random_model("plain")
    with torch.no_grad():
        for block in model.module.blocks:  # pyright: ignore[reportGeneralTypeIssues] (untyped)
            block.query.weight.zero_()
            block.query.bias.zero_()
            block.mlp[0].bias.fill_(1000.0)
    return model
