"""What the searches from the output towards the input share: a few pairs held ready, and candidates judged on them."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._configs import ExamplesConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import asked_of, check_graph
from edgewise.engine import Downstream, Engine, Stream
from edgewise.runs import Learner, joined, share
from edgewise.tasks import Batch, Metric, Task, reduce

SCORE_BYTES = 16 << 20
"""How much of the candidates' logits is scored at once: several passes, which should find them in the cache."""


class Search:
    """Some pairs of a task, which `prepare` runs; a score that candidates are judged by; and where the search stands.
    Raises `InputError` where there are no pairs, or the graph's edges carry positions or features.
    """

    def __init__(self, engine: Engine, task: Task, config: ExamplesConfig, score: Metric) -> None:
        check_graph(engine.graph)
        self.engine, self.score = engine, score
        few = asked_of(task, config)
        self.batches = list(few.batches(config.split, config.batch_size))
        self.n_examples = len(few.split(config.split))
        self.cost = Cost(examples=self.n_examples)
        self.parts: list[tuple[Downstream, Batch]] = []
        self.entered: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Run the pairs once."""
        self.parts = []
        for batch in self.batches:
            batch = batch.to(self.engine.model.device)
            if self.score.needs_full_model:
                batch = batch.with_full_logits(self.engine.full(batch))
            self.parts.append((Downstream(Stream(self.engine, batch)), batch))

    def begin(self) -> None:
        """Count the pairs' runs: once, however often a run is resumed."""
        forwards = 1 + self.score.needs_full_model + (self.engine.ablation.kind == "interchange")
        self.cost.spend(self.n_examples, forwards=forwards)

    def open(self, reader: int, kept: Bool[Tensor, " E"], which: int = 0) -> bool:
        """Turn to a reader of a circuit (number `which`, where several are searched); False if nothing alive reads it.

        All readers before it must be whole in `kept`.
        """
        place = which, self.engine.graph.block_of(reader).number
        for down, _ in self.parts:
            if self.entered != place:
                down.enter(place[1], kept)
            down.open(reader)
        self.entered = place
        return self.parts[0][0].matters(reader)

    def close(self, kept: Bool[Tensor, " E"]) -> None:
        """Leave the reader."""
        for down, _ in self.parts:
            down.close(kept)

    def drop(self, writers: list[int]) -> None:
        """Take edges into the open reader away for good."""
        for down, _ in self.parts:
            down.drop(writers)

    def room(self) -> int:
        """How many candidates may be judged at once, by all processes together."""
        return min(down.room() for down, _ in self.parts) * self.engine.execution.example_ranks.size

    @torch.no_grad()
    def full(self) -> Float[Tensor, " P"]:
        """The full model's scores, pair by pair. Raises `InputError` where one is not finite."""
        scores = [reduce(self.score(down.full(), batch), batch).cpu().double() for down, batch in self.parts]
        if not bool((found := torch.cat(scores)).isfinite().all()):
            raise InputError(
                f"{self.score.name}: it is not finite for the full model on some pair, as where a pair has no wrong "
                "answer to compare with; choose another, or mend the pairs"
            )
        return found

    @torch.no_grad()
    def each(self, writers: list[int], removed: Float[Tensor, "C n"]) -> Float[Tensor, "C P"]:
        """The scores, pair by pair, of circuits that lack some more edges into the open reader; see
        `Downstream.candidates`.
        """
        found, own = list[Tensor](), share(len(removed), self.engine.execution.example_ranks)
        mine = removed[own.start : own.stop].to(self.engine.model.device)
        for down, batch in self.parts if len(mine) else ():
            logits = down.candidates(writers, mine)
            some = max(1, SCORE_BYTES // (logits[0].numel() * logits.element_size()))
            scores = [reduce(self.score(each, batch), batch) for each in logits.split(some)]
            found.append(torch.cat(scores).cpu().double())
        n_blocks = len(self.engine.graph.blocks)
        run = 1 - self.parts[0][0].number / n_blocks  # of the model's blocks, alive or not
        self.cost.spend(self.n_examples * len(removed), forwards=run)
        scores = torch.cat(found, 1) if found else torch.zeros(0, self.n_examples, dtype=torch.float64)
        return joined(scores, self.engine.execution.example_ranks)

    def judge(self, writers: list[int], removed: Float[Tensor, "C n"]) -> Float[Tensor, " C"]:
        """The same, the mean over the pairs."""
        return self.each(writers, removed).mean(1)


class SearchLearner(Learner):
    """A search as a long run: its state by name, and the tally of its passes."""

    state: ClassVar[tuple[str, ...]]
    """The tensors that are its state."""

    def __init__(self, search: Search) -> None:
        self.search, self.graph = search, search.engine.graph

    def prepare(self) -> None:
        """Run the pairs."""
        self.search.prepare()

    def begin(self) -> None:
        """Count the pairs' runs."""
        self.search.begin()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        forwards = torch.tensor(self.search.cost.forwards, dtype=torch.float64)
        return {name: getattr(self, name) for name in self.state} | {"forwards": forwards}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name in self.state:
            setattr(self, name, tensors[name].clone())
        self.search.cost.forwards = float(tensors["forwards"])
        self.search.entered = None


def chunks(items: Iterable[int], size: int) -> list[list[int]]:
    """Runs of at most `size`."""
    items = list(items)
    return [items[start : start + size] for start in range(0, len(items), size)]
