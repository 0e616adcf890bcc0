"""A task: pairs in three splits, and what to make of the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from edgewise._errors import InputError
from edgewise.graph import Graph
from edgewise.tasks._metric import HEADLINE, Score, loss_function, metric_function, metric_names
from edgewise.tasks._pairs import Batch, PadSide, Pair, collate
from edgewise.tasks._splits import SPLITS


@dataclass(frozen=True)
class Task:
    """A behaviour, shown by pairs of prompts.

    Replace the loss or the metric with `dataclasses.replace(task, loss=...)`.
    """

    name: str
    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]
    loss: str | Score = "kl"
    """What training lowers: a name in `metric_names("loss")`, or a callable of (logits `[A, V]`, batch) that gives
    `[A]`."""
    metric: str | Score = "logit_diff"
    """What attribution explains: a name in `metric_names()`, or such a callable, of which more is better."""
    span_names: tuple[str, ...] = ()
    """The names of the position groups that the pairs' `spans` number; empty where positions are not grouped."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What made the pairs, as JSON-able values; `from_provenance` makes them again."""
    metrics: tuple[str, ...] | None = None
    """The metrics that evaluation reports; None for all that are reported of every task and that the pairs allow."""

    def __post_init__(self) -> None:
        loss_function(self.loss)
        metric_function(self.metric)
        for name in self.metrics or ():
            metric_function(name)

    @cached_property
    def contrastive(self) -> bool:
        """Whether every example has a wrong answer, so that a logit difference exists."""
        pairs = (pair for split in SPLITS for pair in self.split(split))
        return all(any(target.wrong for target in pair.targets) for pair in pairs)

    @cached_property
    def unequal(self) -> bool:
        """Whether some pair's prompts do not correspond token by token."""
        return any(pair.align is not None for split in SPLITS for pair in self.split(split))

    def check_spans(self, graph: Graph) -> None:
        """Refuse a graph whose edges carry other position groups than the pairs have.

        Raises:
            InputError: they differ.
        """
        wanted = graph.spec.spans
        if wanted and self.span_names != wanted:
            own = f"the position groups {', '.join(self.span_names)}" if self.span_names else "no position groups"
            raise InputError(
                f"{self.name}: its pairs have {own}, and the graph's edges carry {', '.join(wanted)}; "
                "use model.graph(spans=task.span_names)"
            )

    @property
    def record(self) -> dict[str, Any]:
        """What results say of the task: where its pairs come from, and its name."""
        return dict(self.provenance) | {"name": self.name}

    @property
    def reported(self) -> tuple[str, ...]:
        """The names of the metrics that evaluation reports."""
        if self.metrics is not None:
            return self.metrics
        sets = metric_function(self.metric).needs == "sets"
        has = {"answers": True, "wrong answers": self.contrastive, "sets": sets, "outputs": False}
        known = map(metric_function, metric_names())
        return tuple(metric.name for metric in known if metric.reported and has[metric.needs])

    @property
    def headline(self) -> tuple[str, ...]:
        """The names of the metrics of tables with little room, the distance first."""
        known = self.metrics or tuple(name for name in HEADLINE if self.allows(name))
        return tuple(dict.fromkeys((self.distance, *known)))

    def allows(self, metric: str) -> bool:
        """Whether the pairs have what a metric needs. Raises `InputError` where there is no such metric."""
        needs = metric_function(metric).needs
        if metric in (self.metrics or ()):
            return True
        if needs == "outputs" or self._numeric:
            return needs == "outputs" and self.distance == "l2"
        return needs != "wrong answers" or self.contrastive

    def check_metric(self, metric: str) -> None:
        """Refuse a metric that the pairs do not allow, or that there is none of. Raises `InputError`."""
        if not self.allows(metric):
            needs, known = metric_function(metric).needs, ", ".join(self.reported)
            raise InputError(f"metric {metric!r}: {self.name} has no {needs}; use {known}")

    @property
    def distance(self) -> str:
        """The metric that says how far a circuit is from the full model."""
        return "l2" if "l2" in (self.metrics or ()) else "kl"

    @property
    def _numeric(self) -> bool:
        """Whether the outputs are numbers, which no answer is among."""
        return self.distance == "l2" and "accuracy" not in (self.metrics or ())

    @property
    def explained(self) -> str:
        """A metric that attribution can explain whatever the task's own is: it has a gradient at the full model."""
        if self._numeric:
            return "value"
        return "logit_diff" if self.contrastive else "log_prob"

    def explainable(self, *, at_full_model: bool) -> Task:
        """The task itself, or with `explained` for its metric where that has no gradient: nowhere, or not at the full
        model.
        """
        metric = metric_function(self.metric)
        has_one = metric.differentiable and not (at_full_model and metric.distance)
        return self if has_one else replace(self, metric=self.explained)

    def split(self, name: str) -> Sequence[Pair]:
        """The pairs of a split.

        Raises:
            InputError: there is no split of that name.
        """
        if name not in SPLITS:
            raise InputError(f"{self.name}: there is no split {name!r}; use {', '.join(SPLITS)}")
        return getattr(self, name)

    def check_examples(self, split: str) -> None:
        """Refuse a split without examples, and what is no split.

        Raises:
            InputError: it is one of them.
        """
        if not self.split(split):
            raise InputError(f"{self.name}: the {split} split is empty; choose another, or give the task pairs for it")

    def batch(self, split: str, indices: Iterable[int], pad_side: PadSide = "right") -> Batch:
        """Examples of a split by number, as tensors on the CPU.

        Args:
            split: "train", "validation" or "test".
            indices: which of its examples, in the order wanted.
            pad_side: where shorter prompts are filled up.

        Raises:
            InputError: there is no such split or no such example in it.
        """
        self.check_examples(split)
        pairs = self.split(split)
        indices = list(indices)
        if outside := [index for index in indices if not 0 <= index < len(pairs)]:
            raise InputError(
                f"{self.name}: the {split} split has {len(pairs)} examples, and none of number {outside[0]}"
            )
        return collate([pairs[index] for index in indices], indices, pad_side)

    def batches(self, split: str, size: int, pad_side: PadSide = "right") -> Iterator[Batch]:
        """All examples of a split in order, `size` at a time; the last batch may be smaller.

        Raises:
            InputError: there is no such split, it is empty, or `size` is less than 1.
        """
        if size < 1:
            raise InputError(f"batch size: {size} is too small; use at least 1")
        count = len(self.split(split))
        for start in range(0, max(count, 1), size):  # an empty split is refused by `batch`
            yield self.batch(split, range(start, min(start + size, count)), pad_side)


def pairs_hash(*splits: Iterable[Pair]) -> str:
    """SHA-256 of what the model is given and judged by: tokens, targets and spans, pair by pair, split by split."""
    digest = hashlib.sha256()
    for split in splits:
        for pair in split:
            targets = [(target.position, target.answers, target.wrong) for target in pair.targets]
            aligned = () if pair.align is None else (pair.align,)
            row = json.dumps([pair.clean, pair.corrupted, targets, pair.spans, *aligned], separators=(",", ":"))
            digest.update(row.encode() + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()
