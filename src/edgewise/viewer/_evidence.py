"""What a circuit's page says beyond its scores: exact effects of its strongest edges, where the heads look that read or
write them, and predictions side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from edgewise._errors import InputError
from edgewise.circuit import Circuit, ranked
from edgewise.discovery import exact_effects
from edgewise.engine import Engine
from edgewise.runs import SavedAsJson, check_counts, check_record, reading_record, tensor_hash
from edgewise.tasks import Task
from edgewise.transcoders import TokenTexts
from edgewise.viewer._looks import Look, looks

N_PAIRS = 16
"""Pairs that an edge's effect is the mean over."""
N_EXAMPLES = 8
N_TOKENS = 5
"""Next tokens of each prediction that are named, the likeliest first."""


class Prediction(NamedTuple):
    """What the model and the circuit say at the end of an example."""

    number: int
    """In its split."""
    clean: tuple[str, ...]
    """The prompt's tokens."""
    corrupted: tuple[str, ...]
    answers: tuple[str, ...]
    """The right next tokens."""
    model: tuple[tuple[str, float], ...]
    """The model's likeliest next tokens and their probabilities."""
    circuit: tuple[tuple[str, float], ...]
    """The circuit's."""


@dataclass(frozen=True)
class Evidence(SavedAsJson):
    """Exact effects of a circuit's edges, and its predictions."""

    actual_edges: int
    """Of the circuit."""
    total_edges: int
    metric: str
    """What the effects are of."""
    split: str
    pairs: int
    """How many the effects are the means over."""
    edges: tuple[int, ...]
    """The edges that were patched, the strongest first."""
    effects: tuple[float, ...]
    """Of each: the metric of the full model minus that of the full model without it."""
    predictions: tuple[Prediction, ...] = ()
    by_pair: tuple[tuple[float, ...], ...] = ()
    """Of each edge: its effect on each pair, of which `effects` is the mean."""
    prompts: tuple[tuple[str, ...], ...] = ()
    """The pairs' clean prompts, by token."""
    looks: tuple[Look | None, ...] = ()
    """Of each edge into a head: where the head looks on the pair on which the edge does most."""
    circuit: str = ""
    """The hash of its actual edges; empty in files of earlier versions."""
    model: dict[str, Any] = field(default_factory=dict)
    """What was run, as `Model.identity` says it; empty in files of earlier versions."""

    def is_of(self, circuit: Circuit) -> bool:
        """Whether a circuit is the one that was examined; of what earlier versions wrote, whether its sizes are."""
        sizes = circuit.n_actual, circuit.graph.n_edges
        return self.circuit in ("", tensor_hash(circuit.actual)) and sizes == (self.actual_edges, self.total_edges)

    @staticmethod
    def load(path: str | Path) -> "Evidence":
        """Read what `save` wrote. Raises `InputError` for another file."""
        with reading_record(path, "what `edgewise view --evidence` wrote", "move it away") as row:
            row |= {name: tuple(row[name]) for name in ("edges", "effects")}
            row["predictions"] = tuple(_prediction(each) for each in row["predictions"])
            row |= {name: tuple(tuple(each) for each in row.get(name, ())) for name in ("by_pair", "prompts")}
            row["looks"] = tuple(None if each is None else _read_look(each) for each in row.get("looks", ()))
            found = Evidence(**row)
            check_record(found)
            return found


def _prediction(row: dict[str, Any]) -> Prediction:
    said = {name: tuple((str(token), float(share)) for token, share in row[name]) for name in ("model", "circuit")}
    clean, corrupted, answers = (tuple(row[name]) for name in ("clean", "corrupted", "answers"))
    return Prediction(int(row["number"]), clean, corrupted, answers, said["model"], said["circuit"])


def _read_look(row: dict[str, Any]) -> Look:
    keys = tuple((int(key), float(with_it), float(without)) for key, with_it, without in row["keys"])
    return Look(int(row["example"]), int(row["head"]), int(row["query"]), keys)


def gather(
    engine: Engine,
    circuit: Circuit,
    task: Task,
    n_edges: int = 200,
    *,
    split: str = "test",
    examples: Sequence[int] | None = None,
) -> Evidence:
    """Patch a circuit's strongest edges exactly, and run it on some examples.

    Args:
        engine: of the circuit's graph and ablation.
        circuit: the circuit.
        task: the behaviour.
        n_edges: how many edges; those of the highest scores.
        split: which examples.
        examples: those whose predictions are shown, by number; the first ones if None.

    Raises:
        InputError: there are no examples.
    """
    check_counts("gather", least=0, n_edges=n_edges)
    if not len(task.split(split)):
        raise InputError(f"{task.name}: the {split} split is empty; choose another, or give the task pairs for it")
    strongest = _strongest(circuit, n_edges).tolist()
    # The field's metric, and one that every edge can change: the task's own may be a count.
    explained = replace(task, metric=task.explained)
    n_pairs = min(N_PAIRS, len(task.split(split)))
    found = exact_effects(engine, explained, strongest, split=split, pairs=n_pairs)  # (edges, pairs)
    numbers = list(range(min(N_EXAMPLES, len(task.split(split))))) if examples is None else list(examples)
    return Evidence(
        circuit.n_actual,
        circuit.graph.n_edges,
        task.explained,
        split,
        n_pairs,
        tuple(strongest),
        tuple(found.mean(1).tolist()),
        () if task.explained == "value" else _predictions(engine, circuit, task, split, numbers),
        tuple(tuple(row) for row in found.float().tolist()),
        tuple(_texts(engine, task.split(split)[number].clean) for number in range(n_pairs)),
        tuple(looks(engine, task, split, strongest, found.abs().argmax(1).tolist())),
        tensor_hash(circuit.actual),
        dict(engine.model.identity),
    )


def _strongest(circuit: Circuit, n: int) -> torch.Tensor:
    edges = circuit.actual.nonzero()[:, 0]
    if circuit.scores is None:
        return edges[:n]
    scores = ranked(circuit.scores, absolute=circuit.selection == "absolute")
    return edges[scores[edges].argsort(descending=True, stable=True)[:n]]


@torch.no_grad()
def _predictions(
    engine: Engine, circuit: Circuit, task: Task, split: str, numbers: Sequence[int]
) -> tuple[Prediction, ...]:
    if not numbers:
        return ()
    batch = task.batch(split, numbers).to(engine.model.device)
    logits = {"model": engine.full(batch), "circuit": engine.run(batch, circuit.kept.float().to(engine.model.device))}
    last = [int((batch.row == row).nonzero().max()) for row in range(len(numbers))]  # each example's last answer
    n = min(N_TOKENS, logits["model"].shape[-1])  # a compiled program has few output tokens
    best = {who: torch.topk(each[last].float().softmax(-1), n) for who, each in logits.items()}

    def said(who: str, row: int) -> tuple[tuple[str, float], ...]:
        tokens = _texts(engine, best[who].indices[row].tolist())
        return tuple(zip(tokens, best[who].values[row].tolist(), strict=True))

    shown = []
    for row, number in enumerate(numbers):
        pair = task.split(split)[number]
        clean, corrupted, answers = (
            _texts(engine, each) for each in (pair.clean, pair.corrupted, pair.targets[-1].answers)
        )
        shown.append(Prediction(number, clean, corrupted, answers, said("model", row), said("circuit", row)))
    return tuple(shown)


def _texts(engine: Engine, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token's text; its number where there is no tokenizer."""
    texts = TokenTexts(engine.model.tokenizer)
    return tuple(texts.shown(each) for each in ids)
