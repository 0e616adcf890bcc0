"""ACDC: cut every edge that may go, from the output towards the input (Conmy et al. 2023, algorithm 1)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery._configs import AcdcConfig, configured
from edgewise.discovery._explain import asked_of
from edgewise.discovery._learning import Experiment
from edgewise.discovery._provenance import score_code
from edgewise.discovery._search import Search, SearchLearner
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import RunOptions, uniform
from edgewise.tasks import Task, loss_function, pairs_hash, score_name

_ORDER = 21  # the noise stream that shuffles writers


def acdc(
    model: Model | Engine,
    task: Task,
    config: AcdcConfig | None = None,
    *,
    options: RunOptions | None = None,
    **changes: Any,
) -> Circuit:
    """Cut edges one at a time, for good, wherever that raises the loss by less than a threshold.

    Readers are visited from the logits backwards, each reader's edges writer by writer; a reader whose output nothing
    reads any more loses its edges unvisited. The result is that of the sequential algorithm: several edges are tried
    at once by guessing how the earlier ones will be decided, and what was guessed wrong is tried again.

    Args:
        model: the model, or an engine that also says which graph and ablation (interchange or zero in the paper).
        task: the behaviour; its loss decides, unless another is given.
        config: the settings.
        options: checkpoints and progress; a run that was cut short goes on from its last reader.
        **changes: fields of `AcdcConfig` to change.

    Returns:
        The circuit. Its scores are the changes in loss on which each edge was decided, NaN where it was not visited.

    Raises:
        edgewise.InputError: a setting is wrong, or a checkpoint belongs to another run.
    """
    config = configured(AcdcConfig, config, changes)
    return acdc_ladder(model, task, (config.threshold,), config, options=options)[0]


def acdc_ladder(
    model: Model | Engine,
    task: Task,
    thresholds: Sequence[float],
    config: AcdcConfig | None = None,
    *,
    options: RunOptions | None = None,
    **changes: Any,
) -> list[Circuit]:
    """ACDC at several thresholds, in one run.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: the behaviour.
        thresholds: τ, one circuit for each.
        config: the settings; its own threshold is not used.
        options: checkpoints and progress.
        **changes: fields of `AcdcConfig` to change.

    Returns:
        One circuit per threshold, as `acdc` gives it.

    Raises:
        edgewise.InputError: a threshold is not finite or none is given, or as `acdc`.
    """
    config, engine = configured(AcdcConfig, config, changes), Engine.of(model)
    values = [float(t) for t in thresholds]
    if not values or not all(math.isfinite(t) for t in values):
        raise InputError(f"acdc: thresholds {values}; give at least one finite number")
    loss = task.loss if config.loss is None else config.loss
    search = Search(engine, task, config, loss_function(loss))
    learner = AcdcLearner(search, values, config.absolute, config.order, config.seed)
    examples = pairs_hash(asked_of(task, config).split(config.split))
    own = {"thresholds": values, "loss": score_name(loss), "examples": examples, "loss_code": score_code(loss)}
    experiment = Experiment("acdc", engine, task, replace(config, loss=loss).record(), settings=own)
    report = experiment.run(learner, len(values) * engine.graph.n_readers, options)
    search.cost.seconds = report.seconds
    found = []
    for i, threshold in enumerate(values):
        said = experiment.record(report, search.cost, threshold=threshold, visits=int(learner.visits[i]))
        said["method"]["config"] = replace(config, loss=loss, threshold=threshold).record()
        found.append(Circuit(engine.graph, learner.kept[i], learner.change[i], said))
    return found


class AcdcLearner(SearchLearner):
    """One circuit per threshold, as far as it is cut; one step for each threshold and reader."""

    state = ("kept", "change", "current", "visits", "guess")

    def __init__(self, search: Search, thresholds: list[float], absolute: bool, order: str, seed: int) -> None:
        super().__init__(search)
        self.thresholds, self.absolute, self.order, self.seed = thresholds, absolute, order, seed
        n, n_edges = len(thresholds), self.graph.n_edges
        self.kept = torch.ones(n, n_edges, dtype=torch.bool)
        self.change = torch.full((n, n_edges), torch.nan, dtype=torch.float32)
        self.current = torch.full((n,), torch.nan, dtype=torch.float64)
        self.visits = torch.zeros(n, dtype=torch.long)
        # The guess for a writer is what was last decided about an edge from it; it decides what runs side by side.
        self.guess = torch.zeros(n, self.graph.n_writers, dtype=torch.bool)

    def begin(self) -> None:
        """Start from the full model's loss."""
        super().begin()
        self.current[:] = self.search.full().mean()

    def step(self, step: int) -> dict[str, Tensor | float]:
        """All edges into one reader, under one threshold."""
        which, place = divmod(step, self.graph.n_readers)
        reader = self.graph.n_readers - 1 - place
        first, n = int(self.graph.offset[reader]), int(self.graph.visible[reader])
        if n:
            if self.search.open(reader, self.kept[which], which):
                self._visit(which, reader, first, n)
            else:
                self.kept[which, first : first + n] = False
            self.search.close(self.kept[which])
        return {"loss": float(self.current[which]), "edges": float(self.kept[which].sum())}

    def _visit(self, which: int, reader: int, first: int, n: int) -> None:
        writers, size, room = self._ordered(reader, n), 8, self.search.room()
        while writers:
            some = writers[: min(size, room)]
            kept_guess = self.guess[which, some]
            # Each candidate lacks its own edge and the earlier ones that are guessed to go.
            ones = torch.ones(len(some), len(some), dtype=torch.float32)
            removed = ones.tril(-1) * ~kept_guess + ones.diag().diag()
            decided = self._decide(which, first, some, kept_guess.tolist(), self.search.judge(some, removed).tolist())
            self.visits[which] += decided
            gone = [w for w in some[:decided] if not self.kept[which, first + w]]
            if gone and decided < len(writers):
                self.search.drop(gone)
            writers = writers[decided:]
            size = 2 * size if decided == len(some) else max(2, 2 * decided)

    def _decide(self, which: int, first: int, writers: list[int], guess: list[bool], losses: list[float]) -> int:
        """Decide edges in turn until a guess proves wrong; how many were decided."""
        for count, (writer, guessed, loss) in enumerate(zip(writers, guess, losses, strict=True), start=1):
            change = loss - float(self.current[which])
            keep = (abs(change) if self.absolute else change) >= self.thresholds[which] or math.isnan(change)
            self.change[which, first + writer] = change
            self.guess[which, writer] = keep
            if not keep:
                self.kept[which, first + writer] = False
                self.current[which] = loss
            if keep != guessed:
                return count
        return len(writers)

    def _ordered(self, reader: int, n: int) -> list[int]:
        if self.order == "random":
            return uniform(n, self.seed, reader, _ORDER).argsort().tolist()
        return list(range(n)) if self.order == "ascending" else list(range(n))[::-1]
