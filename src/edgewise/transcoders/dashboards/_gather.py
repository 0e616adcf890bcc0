"""One pass over a text: rows through the model up to the last layer that is read, features encoded, sums kept."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import Learner, RunOptions, RunReport, fastest_precision, run_steps
from edgewise.transcoders import (
    TokenRows,
    Transcoder,
    capture,
    check_length,
    check_transcoder,
    real_tokens,
    run_inputs,
)
from edgewise.transcoders.dashboards._config import DashboardConfig
from edgewise.transcoders.dashboards._seen import Counts, Seen


class Gathered(NamedTuple):
    """What a pass over a text gave."""

    seen: tuple[Seen, ...]
    """Of each transcoder; of the rows that were run where it was interrupted."""
    report: RunReport


def gather(
    model: Model,
    transcoders: Sequence[Transcoder],
    tokens: TokenRows,
    config: DashboardConfig | None = None,
    options: RunOptions | None = None,
) -> Gathered:
    """Run a text and count what features do. What is held in memory does not grow with the text. With `options.out` it
    goes on from where it was cut short, to the same bits.

    Args:
        model: the model; run up to the last layer that a transcoder reads.
        transcoders: whose features; any number, of any layers.
        tokens: the text.
        config: what is kept.
        options: checkpoints and progress.

    Raises:
        InputError: there is no transcoder or no text, a transcoder is not the model's, none of the tokens count, or the
            folder holds another run's checkpoint.
    """
    config, options = config or DashboardConfig(), options or RunOptions(checkpoint_seconds=60.0)
    if not transcoders or not len(tokens):
        raise InputError("dashboard: give at least one transcoder and one row of text")
    for each in transcoders:
        check_transcoder(model, each)
    check_length(model, tokens.ids)
    learner = _Stream(model, transcoders, tokens, config)
    settings = {
        "method": "dashboards",
        **run_inputs(model, tokens, transcoders),
        **config.gathered(),
        "precision": learner.precision,
    }
    report = run_steps(learner, learner.n_steps, settings, options, "running the text")
    seen = tuple(counts.seen() for counts in learner.counts)
    if not seen[0].n_tokens:
        raise InputError("text: none of its tokens count; give longer rows, or exclude_special=False")
    return Gathered(seen, report)


class _Stream(Learner):
    """The transcoders' sums; a step is a batch of rows."""

    on_interrupt = "finish"  # the state is large

    def __init__(
        self, model: Model, transcoders: Sequence[Transcoder], tokens: TokenRows, config: DashboardConfig
    ) -> None:
        self.model, self.transcoders, self.ids, self.config = model, transcoders, tokens.ids, config
        n = tokens.ids.shape[1]
        self.rows = max(1, config.batch_tokens // n)
        self.n_steps = -(-len(tokens) // self.rows)
        self.precision = config.precision or fastest_precision(model.device)
        self.counts = [Counts(each.n_features, n, config) for each in transcoders]

    @torch.no_grad()
    def step(self, step: int) -> dict[str, Tensor | float]:
        start, bf16 = step * self.rows, self.precision == "bfloat16"
        ids = self.ids[start : start + self.rows]
        keep = real_tokens(self.model, ids, exclude_special=self.config.exclude_special)
        found = capture(self.model, [each.spec.reads for each in self.transcoders], ids, bf16=bf16)
        place = keep.flatten().nonzero().flatten()
        active = 0
        for transcoder, counts in zip(self.transcoders, self.counts, strict=True):
            x = found[transcoder.spec.reads][keep.to(self.model.device)].to(transcoder.W_enc)
            codes = transcoder.codes(x, bf16=bf16)
            counts.add(codes, place, start * ids.shape[1], ids.numel())
            active += len(codes.feature)
        return {"active": active / max(1, len(place) * len(self.counts))}

    def tensors(self) -> dict[str, Tensor]:
        return {f"{i}.{name}": x for i, counts in enumerate(self.counts) for name, x in counts.tensors().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for i, counts in enumerate(self.counts):
            start = f"{i}."
            counts.restore({name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)})
