"""Completeness and minimality of a circuit (Wang et al. 2022, section 4), on edges.

A circuit that has found all of a behaviour answers to damage as the model does: for any set K of its edges, the circuit
without K and the model without K should do alike. The sets that show a difference are looked for in three ways: at
random, greedily (Wang et al.), and by gradient ascent on a mask over the circuit's edges (as "same under knockouts" of
Miller, Chughtai & Saunders 2024). They are looked for on one split and judged on another.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.engine import Engine
from edgewise.evaluation._judge import performances
from edgewise.models import Model
from edgewise.runs import Interval, bootstrap, gradients, uniform
from edgewise.tasks import SPLITS, Batch, Task, metric_function, reduce

_STREAM = 31  # of the noise that draws sets
_START, _RATE = 2.0, 0.3  # the learned mask's log odds at the start (an edge is in with 0.88), and Adam's rate


@dataclass(frozen=True)
class Knockout:
    """What one set K of the circuit's edges does."""

    how: str
    """How it was found: `none`, `random`, `greedy` or `learned`."""
    edges: int
    """Edges in K."""
    circuit: float
    """The metric of the circuit without K, mean over the examples."""
    model: float
    """That of the model without K."""
    difference: Interval
    """Mean over the examples of |circuit − model|, and its 95 % bootstrap interval."""


@dataclass(frozen=True)
class Completeness:
    """How differently circuit and model answer to the same damage."""

    metric: str
    full: float
    """The full model's metric."""
    n: int
    knockouts: tuple[Knockout, ...]
    """Of each kind the worst, and with K empty first."""

    @property
    def worst(self) -> Knockout:
        """The set on which the circuit differs most from the model."""
        return max(self.knockouts, key=lambda each: each.difference.value)


def completeness(
    model: Model | Engine,
    circuit: Circuit,
    task: Task,
    *,
    metric: str | None = None,
    n_random: int = 10,
    greedy_steps: int = 5,
    greedy_width: int = 10,
    learned_steps: int = 20,
    search_split: str = "validation",
    split: str = "test",
    pairs: int = 32,
    seed: int = 0,
) -> Completeness:
    """Compare circuit and model without the same edges.

    A random K has every component's outgoing edges with probability ½; a greedy one grows by the component, of some
    drawn at random, whose edges make the difference largest; the learned one starts near the empty set and follows the
    gradient of the difference, and the set of its edges of mask below ½ is taken where it was worst.

    Args:
        model: the model, or an engine of the circuit's graph and ablation.
        circuit: the circuit; its actual edges.
        task: the behaviour.
        metric: of which the difference is taken; the one that attribution explains if None. For the learned set it must
            have a gradient.
        n_random: random sets; 0 for none.
        greedy_steps: components that the greedy set takes; 0 for none.
        greedy_width: components tried for each.
        learned_steps: gradient steps; 0 for none.
        search_split: where sets are looked for.
        split: where they are judged.
        pairs: so many examples of each split, the first.
        seed: of all that is random.

    Raises:
        edgewise.InputError: the circuit has no edges, a split no examples, a number is too small, or the pairs do not
            allow the metric.
    """
    _check_least("completeness", 0, n_random=n_random, greedy_steps=greedy_steps, learned_steps=learned_steps)
    _check_least("completeness", 1, greedy_width=greedy_width, pairs=pairs)
    engine, circuit = Engine.of(model, circuit.graph, circuit.stated_ablation), circuit.pruned(unequal=task.unequal)
    if not circuit.n_edges:
        raise InputError(
            "completeness: no edge of the circuit carries signal, so nothing can be knocked out; give a circuit that "
            "reaches the logits"
        )
    shown, name = _first(task, pairs), metric or task.explained
    task.check_metric(name)
    for each in (search_split, split):
        task.check_examples(each)
    if learned_steps and not metric_function(name).differentiable:
        raise InputError(
            f"completeness: {name} has no gradient for the learned set; choose another, or 0 learned steps"
        )
    search, judge = (_Search(engine, circuit, shown, name, each) for each in (search_split, split))
    found = {"none": [torch.zeros_like(circuit.kept)]}
    found["random"] = [search.random(seed, number) for number in range(n_random)]
    if greedy_steps:
        found["greedy"] = [search.greedy(greedy_steps, greedy_width, seed)]
    if learned_steps:
        found["learned"] = [search.learned(learned_steps)]
    knockouts = []
    for how, sets in found.items():
        if sets:
            worst = max(sets, key=search.difference) if len(sets) > 1 else sets[0]
            one, other = judge.without(worst)
            difference = bootstrap(np.abs(one - other))
            knockouts.append(Knockout(how, int(worst.sum()), float(one.mean()), float(other.mean()), difference))
    full = performances(engine, {"model": circuit.kept}, shown, name, split)["model"]
    return Completeness(name, float(full.mean()), len(full), tuple(knockouts))


class _Search:
    """Looks for sets of the circuit's edges without which it differs from the model."""

    def __init__(self, engine: Engine, circuit: Circuit, task: Task, metric: str, split: str) -> None:
        self.engine, self.circuit, self.task, self.metric, self.split = engine, circuit, task, metric, split
        self.writer = circuit.graph.edge_writer.long()
        self.components = self.writer[circuit.kept].unique()

    def without(self, removed: Bool[Tensor, " E"]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The metric of the circuit and of the model, both without K, example by example."""
        masks = {"circuit": self.circuit.kept & ~removed, "rest": ~removed}
        values = performances(self.engine, masks, self.task, self.metric, self.split)
        return values["circuit"], values["rest"]

    def difference(self, removed: Bool[Tensor, " E"]) -> float:
        """Mean over the examples of |metric(circuit without K) − metric(model without K)|."""
        one, other = self.without(removed)
        return float(np.abs(one - other).mean())

    def random(self, seed: int, number: int) -> Bool[Tensor, " E"]:
        """The edges out of half the components, drawn at random."""
        draw = uniform(self.circuit.graph.n_writers, seed, number, _STREAM)
        return self.circuit.kept & (draw < 0.5)[self.writer]

    def greedy(self, steps: int, width: int, seed: int) -> Bool[Tensor, " E"]:
        """Component by component, the worst of some drawn at random."""
        removed = torch.zeros_like(self.circuit.kept)
        left = self.components
        for step in range(min(steps, len(left))):
            draw = uniform(self.circuit.graph.n_writers, seed, step, _STREAM + 1)
            tried = left[draw[left].argsort()[:width]].tolist()
            sets = [removed | (self.circuit.kept & (self.writer == writer)) for writer in tried]
            values = [self.difference(each) for each in sets]
            best = int(np.argmax(values))
            removed, left = sets[best], left[left != tried[best]]
        return removed

    @gradients()
    def learned(self, steps: int) -> Bool[Tensor, " E"]:
        """Gradient ascent on the difference, over a soft mask of the circuit's edges."""
        kept = self.circuit.kept.to(self.engine.model.device)
        like = {"dtype": torch.float32, "device": kept.device}
        odds = torch.full((len(kept),), _START, **like, requires_grad=True)
        optimiser = torch.optim.Adam([odds], lr=_RATE)
        batches = list(self.task.batches(self.split, 16))
        worst, most = torch.zeros_like(self.circuit.kept), -1.0
        for step in range(steps):
            optimiser.zero_grad()
            (-self._soft_difference(odds, kept, batches[step % len(batches)])).backward()
            optimiser.step()
            removed = ((odds < 0) & kept).cpu()
            if (step + 1) % 5 == 0 or step + 1 == steps:
                value = self.difference(removed)
                if value > most:
                    worst, most = removed, value
        return worst

    def _soft_difference(self, odds: Float[Tensor, " E"], kept: Bool[Tensor, " E"], batch: Batch) -> Tensor:
        batch = batch.to(kept.device)
        batch = batch.with_full_logits(self.engine.full(batch))
        soft, score = odds.sigmoid(), metric_function(self.metric)
        one, other = (
            reduce(score(self.engine.run(batch, torch.where(kept, soft, rest)), batch), batch) for rest in (0.0, 1.0)
        )
        return (one - other).abs().mean()


@dataclass(frozen=True)
class ComponentEffect:
    """What one component's edges do in a circuit."""

    component: str
    edges: int
    """Its outgoing edges in the circuit."""
    effect: float
    """The largest |metric(circuit without K and it) − metric(circuit without K)| over the sets K tried."""
    alone: float
    """That for K empty."""


def component_effects(
    model: Model | Engine,
    circuit: Circuit,
    task: Task,
    *,
    metric: str | None = None,
    n_sets: int = 2,
    split: str = "test",
    pairs: int = 32,
    seed: int = 0,
) -> tuple[ComponentEffect, ...]:
    """Minimality: for each component of the circuit, a set K without which it matters (Wang et al. 2022, section 4.2).

    Args:
        model: the model, or an engine of the circuit's graph and ablation.
        circuit: the circuit; its actual edges.
        task: the behaviour.
        metric: the metric; the one that attribution explains if None.
        n_sets: random sets K (half of the components each) beside the empty one.
        split: which examples.
        pairs: so many of them, the first.
        seed: of the sets.

    Returns:
        The components, those that matter least first: a minimal circuit has none near 0.

    Raises:
        edgewise.InputError: the split has no examples, a number is too small, or the pairs do not allow the metric.
    """
    _check_least("component effects", 0, n_sets=n_sets)
    _check_least("component effects", 1, pairs=pairs)
    engine, circuit = Engine.of(model, circuit.graph, circuit.stated_ablation), circuit.pruned(unequal=task.unequal)
    shown, name = _first(task, pairs), metric or task.explained
    task.check_metric(name)
    task.check_examples(split)
    search = _Search(engine, circuit, shown, name, split)
    sets = [torch.zeros_like(circuit.kept), *(search.random(seed, number) for number in range(n_sets))]
    masks = {}
    for number, removed in enumerate(sets):
        masks[f"{number}"] = circuit.kept & ~removed
        for writer in search.components.tolist():
            masks[f"{number} {writer}"] = circuit.kept & ~removed & (search.writer != writer)
    values = performances(engine, masks, shown, name, split)
    means = {key: float(each.mean()) for key, each in values.items()}
    found = []
    for writer in search.components.tolist():
        effects = [abs(means[f"{number} {writer}"] - means[f"{number}"]) for number in range(len(sets))]
        edges = int((circuit.kept & (search.writer == writer)).sum())
        found.append(ComponentEffect(circuit.graph.writer_names[writer], edges, max(effects), effects[0]))
    return tuple(sorted(found, key=lambda each: each.effect))


def _first(task: Task, pairs: int) -> Task:
    """The task with so many pairs of each split, the first."""
    return replace(task, **{name: task.split(name)[:pairs] for name in SPLITS})


def _check_least(what: str, least: int, **numbers: int) -> None:
    """Refuse numbers that are too small, by name. Raises `InputError`."""
    for name, number in numbers.items():
        if number < least:
            raise InputError(f"{what}: {name}={number} is too small; give {least} or more")
