"""The tests of Shi et al. run on one circuit: which circuits they need, and what each test is given."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery import uniform_scores
from edgewise.engine import Engine
from edgewise.evaluation._hypotheses import (
    QUANTILE,
    Verdict,
    check_numbers,
    equivalence,
    independence,
    minimality,
    partial_necessity,
    sufficiency,
)
from edgewise.evaluation._judge import performances, without
from edgewise.models import Model
from edgewise.tasks import Task, score_name


def hypothesis_tests(
    model: Model | Engine,
    circuit: Circuit,
    task: Task,
    *,
    metric: str | None = None,
    split: str = "test",
    n_random: int = 100,
    max_edges: int | None = 100,
    alpha: float = 0.05,
    quantile: float = QUANTILE,
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Verdict]:
    """All five tests on one circuit.

    Random circuits are the largest of random orders whose actual size is at most the circuit's. An inflated circuit has
    a random path from an embedding to the logits added; the edge removed from it again is a random one of those added.

    Args:
        model: the model, or an engine of the circuit's graph and ablation.
        circuit: the circuit; its actual edges are tested.
        task: the behaviour.
        metric: the performance s; the task's own if None.
        split: which examples.
        n_random: random circuits, and inflated ones. At the default level and q*, fewer than 29 can reject nothing.
        max_edges: test so many edges, drawn at random, for minimality; None for all. The correction is for those
            tested; the others may be unnecessary.
        alpha: the level of each test.
        quantile: q*.
        seed: of all that is random.
        batch_size: examples at a time; it does not change the numbers.
        progress: called with the circuits run so far and those there are to run.

    Returns:
        The results by name.

    Raises:
        edgewise.InputError: the circuit has no edges or all of them, the pairs do not allow the metric or it says
            nothing, or a number is one that no test can be made of.
    """
    check_numbers(n_random, 1 if max_edges is None else max_edges, quantile, alpha)
    if isinstance(name := metric or task.metric, str):
        task.check_metric(name)
    engine, circuit = Engine.of(model, circuit.graph, circuit.stated_ablation), circuit.pruned(unequal=task.unequal)
    if circuit.graph.spec.spans:
        raise InputError("hypothesis tests: the circuit's edges carry positions; give one whose edges carry none")
    if not 0 < circuit.n_edges < circuit.graph.n_edges:
        raise InputError(f"hypothesis tests: the circuit has {circuit.n_edges} of {circuit.graph.n_edges} edges")
    own = performances(engine, {"model": circuit.kept}, task, metric, split, batch_size)["model"]
    if len(own) < 2:
        raise InputError(f"hypothesis tests: the split {split} has one example; give two or more")
    if np.ptp(own) == 0:  # the distance to the model, say: any circuit would pass for independent
        raise InputError(
            f"hypothesis tests: the model's {score_name(name)} is {own[0]:g} for every example; "
            "choose a metric that tells the model's own answers apart, such as logit_diff"
        )
    generator = np.random.default_rng(seed)
    edges = circuit.kept.nonzero()[:, 0].numpy()
    tested = edges if max_edges is None else np.sort(generator.permutation(edges)[:max_edges])
    masks = _masks(circuit, tested, n_random, engine.ablation.kind, seed, generator)
    values = performances(engine, masks, task, metric, split, batch_size, progress)

    def distance(one: str, other: str) -> float:
        return float(np.abs(values[one] - values[other]).mean())

    def distances(one: str, other: str) -> NDArray[np.float64]:
        return np.array([distance(one.format(number), other.format(number)) for number in range(n_random)])

    own, rest = distance("model", "circuit"), distance("model", "complement")
    effects = np.array([distance("circuit", f"edge {edge}") for edge in tested])
    level = {"quantile": quantile, "alpha": alpha}
    minimal = minimality(effects, distances("inflated {}", "deflated {}"), **level)
    unnecessary = [circuit.graph.edge_name(int(tested[place])) for place in minimal.details["unnecessary"]]
    minimal.details["unnecessary"] = unnecessary
    return {
        "equivalence": equivalence(values["circuit"], values["model"], alpha=alpha),
        "independence": independence(values["complement"], values["model"], alpha=alpha, seed=seed),
        "minimality": minimal,
        "sufficiency": sufficiency(own, distances("model", "random {}"), **level),
        "partial necessity": partial_necessity(rest, distances("model", "without random {}"), **level),
    }


def _masks(
    circuit: Circuit, tested: NDArray[np.int64], n_random: int, kind: str, seed: int, generator: np.random.Generator
) -> dict[str, Bool[Tensor, " E"]]:
    """Every circuit that the tests run, by name."""
    masks = {"model": torch.ones_like(circuit.kept), "circuit": circuit.kept, "complement": ~circuit.kept}
    for number in range(n_random):
        drawn = uniform_scores(circuit.graph, seed * n_random + number, kind).top_actual(circuit.n_edges).kept
        masks[f"random {number}"], masks[f"without random {number}"] = drawn, ~drawn
        inflated, added = _inflate(circuit, generator)
        masks[f"inflated {number}"], masks[f"deflated {number}"] = inflated, without(inflated, added)
    return masks | {f"edge {edge}": without(circuit.kept, int(edge)) for edge in tested}


def _inflate(circuit: Circuit, generator: np.random.Generator) -> tuple[Bool[Tensor, " E"], int]:
    """The circuit with a random path added, and one of the edges that it did not have."""
    graph = circuit.graph
    for _ in range(1000):
        path = _random_path(circuit, generator)
        new = [edge for edge in path if not circuit.kept[edge]]
        if new:
            inflated = circuit.kept.clone()
            inflated[path] = True
            return inflated, int(generator.choice(new))
    raise InputError(f"hypothesis tests: no path of the graph ({graph.n_edges} edges) is outside the circuit")


def _random_path(circuit: Circuit, generator: np.random.Generator) -> list[int]:
    """Edges from `logits` back to an embedding (or, without embedding writers, to the first component)."""
    graph, reader, path = circuit.graph, circuit.graph.n_readers - 1, []
    while int(graph.visible[reader]):
        writer = int(generator.integers(int(graph.visible[reader])))
        path.append(int(graph.offset[reader]) + writer)
        readers = graph.readers_of(writer)
        if not readers:
            break
        reader = int(generator.choice(readers))
    return path
