"""Whether a circuit computes what its model computes: on every input, or on every pair of equally long inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine import Engine
from edgewise.models import CompiledTransformer, Program, Tokens
from edgewise.tasks import CLOSE

Output = Literal["decoded", "raw"]
MARGIN = 1e-3
"""By how much the answer must win to be the answer: in an ablated model, all outputs may be 0 and any the largest."""
TOKENS = 1 << 16
"""How many tokens go through the engine at a time."""
WITNESSES = 24
"""How many inputs that told circuits from the model are kept, to try first."""


@dataclass(frozen=True)
class Inputs:
    """Some inputs, each with another of its length to corrupt it with, and every position judged but the first."""

    clean: Tokens
    corrupted: Tokens
    row: Int[Tensor, " A"]
    position: Int[Tensor, " A"]
    span_id: None = None
    align: None = None


class Agreement:
    """Tells the circuits that give the full model's output on every input from those that do not.

    Under interchange, an input is every pair of two equally long inputs of the program; under the other ablations, one
    of its inputs.
    """

    def __init__(self, engine: Engine, output: Output = "decoded") -> None:
        """Set up for a compiled model.

        Args:
            engine: model, graph and ablation.
            output: what must be equal. `decoded`: the answer, which must win by `MARGIN`, or the number to within 0.05;
                `raw`: each of the model's outputs to within 0.05.

        Raises:
            InputError: the model is not a compiled one, or does not itself answer with such a margin.
        """
        if not isinstance(engine.model.module, CompiledTransformer):
            raise InputError("agreement: the model is not a compiled program; load one, such as tracr:reverse")
        if output not in ("decoded", "raw"):
            raise InputError(f"agreement: output={output!r}; choose 'decoded' or 'raw'")
        self.engine, self.output = engine, output
        self.program: Program = engine.model.module.program
        self.pairs = _pairs(self.program, engine.ablation.kind == "interchange")  # (n, 2)
        if not len(self.pairs):
            raise InputError(f"{self.program.name}: no two of its inputs are equally long; interchange needs pairs")
        self.lengths = self.program.lengths[self.pairs[:, 0]]
        alone = torch.arange(len(self.program.inputs))[:, None].repeat(1, 2)
        engine.prepare(self._inputs(rows) for rows in alone.split(64))
        generator = torch.Generator().manual_seed(0)
        self.witnesses = torch.randperm(len(self.pairs), generator=generator)[: WITNESSES // 2].tolist()
        if self.first(torch.ones(1, engine.graph.n_edges, dtype=torch.bool)) is None:
            raise InputError(f"{self.program.name}: the model's own answers do not win by {MARGIN}; compare it raw")

    @torch.no_grad()
    def holds(self, kept: Bool[Tensor, "C E"]) -> Bool[Tensor, " C"]:
        """Which of the circuits agree with the model on every input."""
        if not len(kept):
            return torch.ones(0, dtype=torch.bool)
        good = self._on(kept, torch.tensor(sorted(self.witnesses)))[0]
        for i in good.nonzero()[:, 0].tolist():
            good[i] = self._everywhere(kept[i])
        return good

    @torch.no_grad()
    def first(self, kept: Bool[Tensor, "C E"]) -> int | None:
        """The first of the circuits that agrees with the model on every input; None if none does."""
        good = self._on(kept, torch.tensor(sorted(self.witnesses)))[0]
        return next((i for i in good.nonzero()[:, 0].tolist() if self._everywhere(kept[i])), None)

    @torch.no_grad()
    def share(self, kept: Bool[Tensor, " E"]) -> float:
        """The share of the inputs on which a circuit gives the model's output at every position."""
        agreeing = sum(int(self._on(kept[None], rows)[1].sum()) for rows in self._chunks())
        return agreeing / max(1, len(self.pairs))

    def _everywhere(self, kept: Bool[Tensor, " E"]) -> bool:
        for rows in self._chunks():
            right = self._on(kept[None], rows)[1][0]  # (n,)
            if not bool(right.all()):
                self.witnesses = [int(rows[~right][0]), *self.witnesses][:WITNESSES]
                return False
        return True

    def _chunks(self) -> Iterator[Int[Tensor, " n"]]:
        """All inputs by number, those of one length together: the long ones first, which most circuits fail on."""
        for length in sorted(self.lengths.unique().tolist(), reverse=True):
            yield from (self.lengths == length).nonzero()[:, 0].split(max(1, TOKENS // length))

    def _on(self, kept: Bool[Tensor, "C E"], rows: Int[Tensor, " n"]) -> tuple[Bool[Tensor, " C"], Bool[Tensor, "C n"]]:
        """Which circuits agree on all of some inputs, and which on each."""
        batch = self._inputs(self.pairs[rows])
        full = self.engine.full(batch)
        size = max(1, TOKENS // batch.clean.ids.numel())
        right = torch.cat(
            [self._agree(self.engine.run(batch, masks.float()[:, None]), full) for masks in kept.split(size)]
        )
        wrong = torch.zeros(len(kept), len(rows)).index_add(1, batch.row, (~right).float())  # (C, n)
        return right.all(1), wrong == 0

    def _agree(self, logits: Float[Tensor, "C A V"], full: Float[Tensor, "A V"]) -> Bool[Tensor, "C A"]:
        if self.output == "raw" or self.program.outputs is None:
            return ((logits - full).abs() <= CLOSE).all(-1)
        answer = full.argmax(-1, keepdim=True).expand(*logits.shape[:-1], 1)
        others = logits.scatter(-1, answer, -torch.inf)
        return logits.gather(-1, answer)[..., 0] > others.amax(-1) + MARGIN

    def _inputs(self, pairs: Int[Tensor, "n 2"]) -> Inputs:
        lengths = self.program.lengths[pairs[:, 0]]
        width = int(lengths.max())
        mask = torch.arange(width) < lengths[:, None]
        clean, corrupted = (Tokens(self.program.inputs[rows, :width], mask) for rows in pairs.T)
        row, position = mask[:, 1:].nonzero().T
        return Inputs(clean, corrupted, row, position + 1)


def _pairs(program: Program, interchange: bool) -> Int[Tensor, "n 2"]:
    """The inputs as pairs of a clean and a corrupted one, by number; each with itself where the second is not used."""
    if not interchange:
        return torch.arange(len(program.inputs))[:, None].repeat(1, 2)
    pairs = []
    for length in program.lengths.unique():
        rows = (program.lengths == length).nonzero()[:, 0]
        both = torch.cartesian_prod(rows, rows).view(-1, 2)
        pairs.append(both[both[:, 0] != both[:, 1]])
    return torch.cat(pairs)
