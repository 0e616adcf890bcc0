"""The cases that two commits are compared on, by the library's public calls alone, so that they run on either.

Run as a script it is one side of a comparison (see `compare.py`): it takes one order a line, in JSON, and answers it.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _measure import peak_tensor_bytes
from _shapes import SHAPES, random_weights
from torch.optim.optimizer import register_optimizer_step_post_hook

import edgewise as ew

VISITED = 8
"""Edges that an ACDC visit is timed on, per reader."""


class Case(NamedTuple):
    """Something whose time and memory are measured."""

    shape: str
    kind: str
    """`step`, `eap`, `eap-ig` or `acdc`."""
    batch: int
    memory: str = "default"

    @property
    def name(self) -> str:
        """What it is called on the command line and in tables."""
        return f"{self.shape}-{self.kind}-{self.batch}" + ("-lean" if self.memory == "lean" else "")


CASES = {
    case.name: case
    for shape in ("gpt2", "smollm2", "tiny")
    for case in (
        *(Case(shape, "step", batch, memory) for batch in (32, 8) for memory in ("default", "lean")),
        Case(shape, "eap", 32),
        Case(shape, "eap-ig", 8),
        Case(shape, "acdc", 16),
    )
}
LENGTH = 20


def random_task(vocabulary: int, n: int, length: int, shared: float = 0.0) -> ew.tasks.Task:
    """Pairs of random tokens, judged at the last one; both prompts of a pair begin with the same share of tokens."""
    drawn = torch.randint(vocabulary, (n, 2, length), generator=torch.Generator().manual_seed(0))
    drawn[:, 1, : round(shared * length)] = drawn[:, 0, : round(shared * length)]
    ids = drawn.tolist()
    target = (ew.tasks.Target(length - 1, (1,), (2,)),)
    pairs = [ew.tasks.Pair(tuple(clean), tuple(corrupted), target, "", "") for clean, corrupted in ids]
    return ew.tasks.Task("random", pairs, pairs[:1], pairs[:1])


@cache
def model_of(shape: str) -> ew.Model:
    """A model of the shape with random weights, loaded once."""
    return ew.models.load(random_weights(SHAPES[shape]()))


class Spent(NamedTuple):
    """Seconds on the clock, and the processor's, all threads together."""

    seconds: float
    cpu: float


def now() -> Spent:
    """Where both stand."""
    return Spent(time.perf_counter(), time.process_time())


def shared(since: Spent, until: Spent, count: int) -> Spent:
    """What each of `count` took."""
    return Spent((until.seconds - since.seconds) / count, (until.cpu - since.cpu) / count)


def step_seconds(case: Case, steps: int) -> Spent:
    """A step of Edge Pruning, over a whole schedule shortened to `steps` (the first not counted)."""
    times: list[Spent] = []
    hook = register_optimizer_step_post_hook(lambda *_: times.append(now()))
    try:
        _steps(case, steps)
    finally:
        hook.remove()
    return shared(times[0], times[-1], len(times) - 1)


def _steps(case: Case, steps: int) -> None:
    model = model_of(case.shape)
    config = ew.EdgePruningConfig(
        steps=steps, sparsity_warmup=int(steps * 0.7), lr_warmup=1, batch_size=case.batch, seed=0
    )
    engine = ew.Engine(model, memory=case.memory)  # pyright: ignore[reportArgumentType] (one of the two)
    ew.edge_pruning(engine, random_task(900, case.batch, LENGTH), config, options=ew.RunOptions(progress=False))


def attribution(case: Case) -> Callable[[], Any]:
    """One EAP, or EAP-IG of five points, over a single batch, from nothing."""
    model, task = model_of(case.shape), random_task(900, case.batch, LENGTH)
    eap, eap_ig = ew.eap, ew.eap_ig  # imported before the clock runs
    if case.kind == "eap":
        return lambda: eap(ew.Engine(model), task, batch_size=case.batch)
    return lambda: eap_ig(ew.Engine(model), task, points=5, batch_size=case.batch)


def visits(case: Case) -> Callable[[], Any]:
    """ACDC's visits of the first query in the middle layer and of the MLP before it, with all edges kept."""
    model = model_of(case.shape)
    engine, kept = ew.Engine(model), torch.ones(model.graph().n_edges, dtype=torch.bool)
    batch = next(iter(random_task(900, case.batch, LENGTH).batches("train", case.batch)))
    down = ew.engine.Downstream(ew.engine.Stream(engine, batch))
    middle = engine.graph.n_readers // 2
    blocks = [number for number, block in enumerate(engine.graph.blocks) for _ in range(block.n_readers)]

    def run() -> None:
        for reader in (middle, middle - 1):
            down.enter(blocks[reader], kept)
            down.open(reader)
            down.candidates(list(range(VISITED)), torch.eye(VISITED))

    return run


@cache
def prepared(name: str) -> Callable[[], Any]:
    """What a case that is no step runs."""
    case = CASES[name]
    return visits(case) if case.kind == "acdc" else attribution(case)


def case_seconds(name: str, steps: int) -> Spent:
    """What a step, an attribution or a visit takes; `steps` of a batch of 32 (twice as many of 8)."""
    case = CASES[name]
    if case.kind == "step":
        return step_seconds(case, steps * (1 if case.batch == 32 else 2))
    run, start = prepared(name), now()
    run()
    return shared(start, now(), 2 * VISITED if case.kind == "acdc" else 1)


def case_bytes(name: str) -> int:
    """The most bytes of tensors alive at once above the weights."""
    case = CASES[name]
    return peak_tensor_bytes((lambda: _steps(case, 2)) if case.kind == "step" else prepared(name))


@torch.no_grad()
def numbers(path: str, n: int) -> dict[str, list[float]]:
    """A saved circuit on the default model and `n` test pairs of `ioi`: KL to the model and logit difference of each
    pair, and the means that `evaluate` gives.
    """
    model = ew.load_model("smollm2-135m")
    task = ew.tasks.ioi(model.tokenizer, train=1, validation=1, test=n, seed=0)
    circuit = ew.Circuit.load(Path(path))
    engine = ew.Engine(model, circuit.graph)
    found: dict[str, list[float]] = {"kl": [], "logit_diff": []}
    for batch in task.batches("test", 32):
        full = engine.full(batch).double().log_softmax(-1)
        logits = engine.run(batch, circuit.kept.to(torch.float32)).double()
        found["kl"] += (full.exp() * (full - logits.log_softmax(-1))).sum(-1).tolist()
        right, wrong = (logits.gather(1, ids[:, :1])[:, 0] for ids in (batch.answers, batch.wrong))
        found["logit_diff"] += (right - wrong).tolist()
    measured = ew.evaluate(model, circuit, task, baselines=()).metrics
    return found | {f"evaluate: {name}": [row.value] for name, row in measured.items() if name in found}


def answer(order: dict[str, Any]) -> Any:
    """Do what one line asks."""
    if order["what"] == "seconds":
        return case_seconds(order["case"], order["steps"])._asdict()
    if order["what"] == "bytes":
        return case_bytes(order["case"])
    if order["what"] == "numbers":
        return numbers(order["circuit"], order["pairs"])
    return ew.__file__


def main() -> None:
    """Answer orders until there are no more."""
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
