"""Judging one circuit: each metric beside the full model's, the empty circuit's, random circuits' and attribution's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise._errors import InputError
from edgewise.circuit import Circuit, empty_circuit
from edgewise.discovery import Scores, eap, uniform_scores
from edgewise.engine import Engine
from edgewise.evaluation._areas import faithfulness, largest, something_to_keep
from edgewise.evaluation._judge import check_transcoders, conditions, judge, task_metrics
from edgewise.models import Model
from edgewise.runs import Interval, SavedAsJson, bootstrap, record_of, software, tensor_hash
from edgewise.tasks import Metric, Task

EAP_PAIRS = 64
"""Pairs that the EAP baseline is scored on at most, and whose sign is chosen on: more cost more than all judging, and
its circuits are no nearer to the model (docs/performance.md)."""
N_RANDOM = 3
"""How many random circuits stand for chance. They take the examples in turn, so that they cost no more than one."""
N_WORST = 10
"""How many of the worst examples are named."""


@dataclass(frozen=True)
class Measured:
    """One metric of the circuit, and of what it is to be compared with. All are means over the examples."""

    value: float
    low: float | None
    """Lower end of the 95 % bootstrap interval over the examples; None of one example."""
    high: float | None
    full: float
    """The full model's."""
    empty: float
    """The empty circuit's: every edge ablated."""
    random: float | None
    """The mean under random circuits of at most the same actual size (the largest such of each order), which take the
    examples in turn."""
    eap: float | None
    """That of EAP's circuit of at most the same actual size (see `eap_baseline`)."""
    lower_is_better: bool
    faithfulness: float | None = None
    """The share of the behaviour that the circuit keeps, a ratio of means (see `faithfulness`); None for a distance, or
    where the full model has what the empty circuit has."""

    def __str__(self) -> str:
        """The value and its interval."""
        return str(Interval(self.value, self.low, self.high))


@dataclass(frozen=True)
class WorstExample:
    """An example on which a circuit is far from the model."""

    number: int
    """In its split."""
    distance: float
    """The task's distance to the full model: KL, or l2 where outputs are numbers."""
    clean: str
    corrupted: str


@dataclass(frozen=True)
class Evaluation(SavedAsJson):
    """What a circuit's numbers are, with everything that would change them."""

    edges: int
    """Nominal size."""
    actual_edges: int
    """Edges that can carry signal."""
    total_edges: int
    n: int
    """Examples judged."""
    metrics: dict[str, Measured]
    conditions: dict[str, Any] = field(default_factory=dict)
    """Split, ablation, graph, positions, model, baselines and seeds; `circuit`, the hash of its actual edges."""
    worst: tuple[WorstExample, ...] = ()
    """The examples on which the circuit is farthest from the model, the farthest first."""
    removed: dict[str, Measured] = field(default_factory=dict)
    """The same metrics of the model without the circuit's actual edges, where that was asked for: necessity."""

    def is_of(self, circuit: Circuit) -> bool:
        """Whether a circuit is the one that was judged; of what earlier versions wrote, whether its sizes are."""
        sizes = circuit.n_actual, circuit.graph.n_edges
        same = self.conditions.get("circuit") in (None, tensor_hash(circuit.actual))
        return same and sizes == (self.actual_edges, self.total_edges)

    def __str__(self) -> str:
        """The sizes and one line per metric; `to_json` has everything."""
        lines = [f"{self.edges:,} edges, {self.actual_edges:,} actual, of {self.total_edges:,}; {self.n} examples"]
        for name, row in self.metrics.items():
            others = {"full": row.full, "empty": row.empty, "random": row.random, "EAP": row.eap}
            beside = ", ".join(f"{who} {x:.3f}" for who, x in others.items() if x is not None)
            lines.append(f"{name}: {row}" + (f"; {beside}" if beside else ""))
        for name, row in self.removed.items():
            lines.append(f"{name} without the circuit: {row}")
        return "\n".join(lines)


def evaluate(
    model: Model | Engine,
    circuit: Circuit,
    task: Task,
    *,
    split: str = "test",
    batch_size: int = 32,
    baselines: tuple[str, ...] = ("random", "eap"),
    attribution: Scores | None = None,
    metrics: tuple[str, ...] | None = None,
    necessity: bool = False,
) -> Evaluation:
    """Judge a circuit: KL(full ‖ circuit), logit difference, accuracy and exact match, with hard masks.

    Args:
        model: the model, or an engine of the circuit's graph and ablation.
        circuit: the circuit.
        task: the behaviour.
        split: which examples.
        batch_size: how many at a time; it does not change the numbers.
        baselines: `random`: random circuits of the same actual size; `eap`: EAP's, with scores from the training split.
        attribution: EAP's scores, if they are at hand.
        metrics: names among `edgewise.tasks.metric_names()`; those of the task if None.
        necessity: also judge the model without the circuit. That run has nearly all edges, so it may cost as much as
            all others together.

    Raises:
        InputError: the circuit is of another graph or ablation than the engine, a baseline or metric is unknown or
            no metric is named, or the pairs do not allow a metric.
    """
    engine = Engine.of(model, circuit.graph, circuit.stated_ablation)
    check_transcoders(engine, circuit, "circuit")
    task.check_examples(split)
    if metrics is not None and not metrics:
        raise InputError("metrics: none are named; name one or more, or None for the task's")
    for name in metrics or ():
        task.check_metric(name)
    if unknown := set(baselines) - {"random", "eap"}:
        raise InputError(f"baselines: {min(unknown)!r} is unknown; choose random, eap")
    chosen, randoms = dict[str, Circuit]({"circuit": circuit}), list[Circuit]()
    under: dict[str, Any] = {}
    if "random" in baselines:
        orders = (uniform_scores(engine.graph, seed, engine.ablation.kind) for seed in range(N_RANDOM))
        randoms = [scores.top_actual(circuit.n_actual) for scores in orders]
    if "eap" in baselines and attribution is None and not len(task.train):
        raise InputError(
            f"baselines: EAP is scored on training pairs, of which {task.name} has none; choose random alone, or none"
        )
    if "eap" in baselines:
        selection, chosen["eap"] = eap_baseline(engine, task, circuit.n_actual, attribution, batch_size)
        under["eap"] = {
            "selection": selection,
            "scores_from": _scores_from(attribution),
            "pairs": None if attribution is not None else min(EAP_PAIRS, len(task.train)),
            "chosen_on": _choosing_split(task),
        }
    empty = empty_circuit(circuit)
    asked = None if metrics is None else tuple(dict.fromkeys((*metrics, task.distance)))
    if necessity:
        chosen["removed"] = replace(circuit, kept=~circuit.pruned(unequal=task.unequal).kept)
    drawn = {"random": randoms} if randoms else {}
    values = judge(engine, {**chosen, **drawn, "empty": empty}, task, split, batch_size, asked)
    without = values.pop("removed", None)
    farthest = _worst(task, split, values["circuit"].get(task.distance))
    shown = task_metrics(task, metrics)
    measured = _all_measured(shown, values)
    ends = {who: values[who] for who in ("full", "empty")}
    removed = {} if without is None else _all_measured(shown, ends | {"circuit": without})
    under |= conditions(engine, split) | {
        "circuit": tensor_hash(circuit.actual),
        "task": task.record,
        "positions": "the task's targets",
        "engine": {name: getattr(engine.execution, name) for name in ("memory", "path", "matmul")},
        "software": software(),
        "random_circuits": len(randoms),
        "baselines_actual_edges": {f"random {seed}": each.n_actual for seed, each in enumerate(randoms)}
        | {who: each.n_actual for who, each in chosen.items() if who not in ("circuit", "removed")},
        "units": {name: each.unit for name, each in shown.items()},
    }
    if engine.features:
        under["transcoders"] = engine.transcoder_identity
    sizes = circuit.n_edges, circuit.n_actual, engine.graph.n_edges, len(task.split(split))
    return Evaluation(*sizes, measured, under, farthest, removed)


def _worst(task: Task, split: str, distances: NDArray[np.float64] | None) -> tuple[WorstExample, ...]:
    if distances is None:  # a task that is judged by other metrics
        return ()
    pairs, order = task.split(split), np.argsort(-distances, kind="stable")[:N_WORST].tolist()
    return tuple(WorstExample(i, float(distances[i]), pairs[i].clean_text, pairs[i].corrupted_text) for i in order)


def eap_baseline(
    engine: Engine, task: Task, n_actual: int, scores: Scores | None, batch_size: int = 32
) -> tuple[str, Circuit]:
    """EAP's circuit of an actual size: by signed or absolute score, whichever is nearer to the model on the first
    `EAP_PAIRS` of validation. Its scores, if none are given, are from as many training pairs.
    """
    # The field's metric, and one with a gradient: the task's own may be the user's and have none.
    few = {"train": task.train[:EAP_PAIRS], "validation": task.validation[:EAP_PAIRS]}
    explained = replace(task, **few, metric=task.explained)
    scores = scores or eap(engine, explained, batch_size=batch_size)
    circuits = {
        "signed": scores.top_actual(n_actual),
        "absolute": scores.top_actual(n_actual, absolute=True),
    }
    values = judge(engine, circuits, explained, _choosing_split(task), batch_size, names=(task.distance,))
    best = min(circuits, key=lambda name: values[name][task.distance].mean())
    return best, circuits[best]


def _scores_from(attribution: Scores | None) -> str:
    if attribution is None:
        return "train"
    method = record_of(attribution.provenance, "method")  # of 0.1, the split stood beside the name
    return str(method.get("config", method).get("split", "unknown"))


def _choosing_split(task: Task) -> str:
    return "validation" if len(task.validation) else "train"


def _all_measured(
    metrics: Mapping[str, Metric], values: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> dict[str, Measured]:
    return {name: _measured(each, {who: x[name] for who, x in values.items()}) for name, each in metrics.items()}


def _measured(metric: Metric, values: dict[str, NDArray[np.float64]]) -> Measured:
    interval = bootstrap(values["circuit"])
    full, empty = (float(values[who].mean()) for who in ("full", "empty"))
    scale = largest(values["full"], values["empty"])
    keeps = something_to_keep(full, empty, scale) and not metric.lower_is_better
    share = faithfulness(interval.value, full, empty, scale) if keeps else None
    return Measured(
        *interval,
        full=full,
        empty=empty,
        random=float(values["random"].mean()) if "random" in values else None,
        eap=float(values["eap"].mean()) if "eap" in values else None,
        lower_is_better=metric.lower_is_better,
        faithfulness=share,
    )
