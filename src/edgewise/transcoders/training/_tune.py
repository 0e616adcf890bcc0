"""Tuning a set as a whole: with all its MLPs replaced at once, towards the model's own next-token distribution.

Transcoders trained one by one see only inputs of the untouched model. Replaced together, each also reads what those
before it got wrong, and none is told which of its mistakes matter. Here they are.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from edgewise import runs
from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import (
    Count,
    Learner,
    NotFiniteError,
    NotNegative,
    Positive,
    RunOptions,
    check_settings,
    fastest_precision,
    uniform,
)
from edgewise.transcoders import (
    Substitute,
    TokenRows,
    Transcoder,
    centre,
    check_device,
    check_length,
    check_transcoder,
    excluding,
    input_at,
    run_inputs,
    substituted,
    written,
)
from edgewise.transcoders.formats import save
from edgewise.transcoders.training._refit import refit

_ROWS, _REFIT = 203, 209  # noise streams: the order of the rows, and which are fitted to first


@dataclass(frozen=True)
class TuningConfig:
    """How a set is tuned."""

    tokens: Count = 200_000
    """To see; rounded down to whole batches."""
    batch_tokens: Count = 1024
    """Of a step, rounded down to whole rows of the text."""
    refit_tokens: NotNegative = 16_384
    """Before the first step, from the first layer to the last, the skip connections, the biases and one factor of each
    decoder are fitted anew to these tokens, in one run with all MLPs replaced: so that the stream after each layer is
    nearest to the model's own, whatever the layers below got wrong. 0: they start as they are."""
    learning_rate: Positive = 1e-4
    """Of Adam; it rises over the first twentieth and then falls to 0 in a line."""
    clip: Positive | None = 1.0
    """Largest norm of the gradient of all parameters together; None for no bound."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """As `TrainingConfig.precision`."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers. Raises `InputError`."""
        check_settings("tuning", self)
        if not self.steps:
            raise InputError(f"tokens {self.tokens}, batch {self.batch_tokens}: give tokens for at least one batch")

    @property
    def steps(self) -> int:
        """Batches in all."""
        return self.tokens // self.batch_tokens

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.steps // 20), (self.steps - step) / self.steps)


@dataclass(frozen=True)
class Tuned:
    """What a tuning made."""

    transcoders: tuple[Transcoder, ...]
    """The transcoders that were given, changed."""
    kl: float | None
    """KL(model ‖ model with all of them in place) of the last batch; None where nothing was left to do."""
    steps: int
    seconds: float
    """Over all parts of a resumed run."""
    stopped: str | None
    """Why it ended early, or None."""
    interrupted: bool = False
    """Whether it was interrupted, be it in the last step, after which it is whole: nothing should follow then."""


def tune(
    model: Model,
    transcoders: Sequence[Transcoder],
    tokens: TokenRows,
    config: TuningConfig | None = None,
    *,
    options: RunOptions | None = None,
) -> Tuned:
    """Lower KL(model ‖ model with all these transcoders in its MLPs' places) by gradient descent on all of them.

    Special and first tokens keep the MLP's own output in the layers whose transcoders were trained without them.

    Args:
        model: the language model; left as it was.
        transcoders: at most one a layer, each of one layer; changed in place. Weights in half precision become float32.
        tokens: the text.
        config: how.
        options: checkpoints, progress, logs; with `out`, the transcoders are also written there.

    Raises:
        InputError: a transcoder is not the model's, is an autoencoder or one of a cross-layer set, two are of one
            layer, rows of the text are longer than a batch, or the folder holds another run's checkpoint.
    """
    options, config = options or RunOptions(checkpoint_seconds=300.0), config or TuningConfig()
    learner = TuningLearner(model, transcoders, tokens, config)
    settings = {
        "method": "tuning",
        **run_inputs(model, tokens, transcoders),
        **asdict(config),
        "precision": learner.precision,
    }
    with runs.gradients():
        report = runs.run_steps(learner, config.steps, settings, options, "tuning")
    for each in transcoders:
        method = runs.record_of(each.provenance, "method")
        before = runs.record_of(method, "tuned")  # of an earlier tuning, whose text it has seen too
        seen = {"tokens_seen": report.steps * learner.rows * tokens.ids.shape[1]}
        tuned = settings | report.record() | seen | ({"before": before} if before else {})
        each.provenance = {**each.provenance, "method": method | {"tuned": tuned}, "software": runs.software()}
        if options.out is not None:
            save(each, options.out / f"layer{each.spec.reads.layer}.safetensors")
    made = tuple(transcoders)
    return Tuned(made, learner.kl, report.steps, report.seconds, report.message, report.interrupted)


class TuningLearner(Learner):
    """A set in its model, and the optimiser of all its weights."""

    on_interrupt = "finish"  # the state may be gigabytes

    def __init__(
        self, model: Model, transcoders: Sequence[Transcoder], tokens: TokenRows, config: TuningConfig
    ) -> None:
        """Set up. Raises `InputError` as `tune` does."""
        model.check(hooks=False)  # its own forward is what runs
        check_length(model, tokens.ids)
        _check(model, transcoders)
        if tokens.ids.shape[1] > config.batch_tokens:
            raise InputError(
                f"text: rows of {tokens.ids.shape[1]} tokens, and a batch has {config.batch_tokens}; give shorter rows "
                "(--context) or a larger batch_tokens"
            )
        for each in transcoders:  # in half precision steps are lost to rounding, and closed forms do not exist
            each.to(torch.promote_types(each.W_enc.dtype, torch.float32))
        self.model, self.transcoders, self.tokens, self.config = model, tuple(transcoders), tokens, config
        auto = config.precision == "auto"
        self.precision = fastest_precision(model.device) if auto else config.precision
        self.parameters = [p for each in transcoders for p in each.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1.0, fused=True)
        self.rows = config.batch_tokens // tokens.ids.shape[1]
        self.kl: float | None = None

    @torch.no_grad()
    def begin(self) -> None:
        """Fit the skip connections and biases to the replaced model's own inputs, in closed form."""
        n_rows = min(self.config.refit_tokens // self.tokens.ids.shape[1], len(self.tokens))
        if not n_rows:
            return
        order = uniform(len(self.tokens), self.config.seed, 0, _REFIT).argsort()[:n_rows]
        ids, low = self.tokens.ids[order], self.precision == "bfloat16"
        refit(self.model, self.transcoders, ids, bf16=low)

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One batch.

        Raises:
            NotFiniteError: the loss or its gradient is not finite; nothing has been changed then.
        """
        loss, gradients = self.gradients(self._batch(step))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        bound = torch.inf if self.config.clip is None else self.config.clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, bound)
        if not bool(torch.isfinite(norm + loss)):
            raise NotFiniteError(f"the loss is {float(loss)}, its gradient's norm {float(norm)}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(step)
        self.optimizer.step()
        with torch.no_grad():
            for each in self.transcoders:
                if each.activation.kind == "jumprelu":
                    each.threshold.clamp_(min=0)
        self.kl = float(loss)
        return {"loss": loss}

    def gradients(self, ids: Int[Tensor, "B S"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The mean KL over all positions of a batch, and its gradient to each parameter (none to the model's)."""
        with torch.no_grad():
            own = self._log_probabilities(ids)
        changes = {each.spec.reads.layer: self._substitute(each) for each in self.transcoders}
        with substituted(self.model, changes, exclude_special=excluding(self.transcoders)):
            changed = self._log_probabilities(ids)
        loss = functional.kl_div(changed, own, log_target=True, reduction="sum") / ids.numel()
        return loss.detach(), torch.autograd.grad(loss, self.parameters, materialize_grads=True)

    def _substitute(self, transcoder: Transcoder) -> Substitute:
        reads = transcoder.spec.reads
        layer = self.model.parts.layers[reads.layer]

        def substitute(residual: Tensor | None, given: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
            x = centre(input_at(layer, reads.kind, residual, given), reads)
            y = written(transcoder, x.flatten(0, -2).to(transcoder.W_enc.dtype), bf16=self.precision == "bfloat16")
            return y.view(given.shape).to(given.dtype)

        return substitute

    def _log_probabilities(self, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        with self._in_precision():
            logits = self.model.module(input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool)).logits
        return functional.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)

    def _in_precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _batch(self, step: int) -> Int[Tensor, "B S"]:
        """Rows in an order that is another in each pass over the text."""
        places = torch.arange(step * self.rows, (step + 1) * self.rows)
        n = len(self.tokens)
        orders = {int(p): uniform(n, self.config.seed, int(p), _ROWS).argsort() for p in (places // n).unique()}
        index = torch.stack([orders[int(place) // n][int(place) % n] for place in places])
        return self.tokens.ids[index].to(self.model.device)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and the optimiser's state."""
        found = {f"{each.spec.reads}/{name}": x for each in self.transcoders for name, x in each.state_dict().items()}
        return found | runs.optimizer_tensors(self.optimizer)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for each in self.transcoders:
            for name, x in each.state_dict().items():
                x.copy_(tensors[f"{each.spec.reads}/{name}"])
        runs.restore_optimizer(self.optimizer, tensors)


def _check(model: Model, transcoders: Sequence[Transcoder]) -> None:
    """Refuse what cannot be tuned. Raises `InputError`."""
    if not transcoders:
        raise InputError("tune: give at least one transcoder")
    layers = [each.spec.reads.layer for each in transcoders]
    for each in transcoders:
        check_transcoder(model, each)
        check_device(model, each)
        if each.spec.is_autoencoder or [site.layer for site in each.spec.writes] != [each.spec.reads.layer]:
            raise InputError(f"{each.spec.reads}: only transcoders of one layer each can be tuned")
        if layers.count(each.spec.reads.layer) > 1:
            raise InputError(f"layer {each.spec.reads.layer}: one transcoder can be tuned there, not several")
