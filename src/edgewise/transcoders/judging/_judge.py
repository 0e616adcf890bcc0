"""Judging transcoders: how few features are active, how much they explain, and what the model loses with them in the
MLPs' place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import Interval, SavedAsJson, bootstrap, finest
from edgewise.transcoders import (
    Replacement,
    Site,
    Substitute,
    TokenRows,
    Transcoder,
    capture,
    check_device,
    check_length,
    check_transcoder,
    held_out,
    real_tokens,
    substituted,
    texts_seen,
    transcoder_record,
)
from edgewise.transcoders.judging._counts import BINS, Counts
from edgewise.transcoders.judging._recall import blocks_of, recalled, remembered

_TOKENS = 512  # of one forward: whole-vocabulary logits are kept for two models at once
Change = Mapping[int, Substitute] | Replacement
"""What is put in place of some layers' MLPs."""


@dataclass(frozen=True)
class Loss:
    """Next-token loss of a changed model, beside the model's own. Means over tokens, in nats."""

    loss: float
    added: float
    """The loss minus the model's own, row by row."""
    low: float | None
    """Lower end of its 95 % bootstrap interval over rows; None of one row."""
    high: float | None
    kl: float
    """KL(model ‖ changed model) of the next token, over the whole vocabulary."""
    rows: tuple[float, ...] = field(repr=False)
    """The loss of each row."""

    def minus(self, other: "Loss") -> Interval:
        """This loss minus another changed model's on the same rows, with its 95 % bootstrap interval over rows.

        Rows differ far more than changed models do, so two intervals that overlap say little; this one says which of
        two is better. Raises `InputError` where the two are not of as many rows.
        """
        if len(self.rows) != len(other.rows):
            raise InputError(f"losses of {len(self.rows)} and {len(other.rows)} rows: judge both on the same rows")
        return bootstrap(np.asarray(self.rows) - np.asarray(other.rows))


@dataclass(frozen=True)
class Judged:
    """One transcoder's numbers."""

    name: str
    """Its file's, or what it reads and its activation."""
    reads: str
    writes: tuple[str, ...]
    activation: str
    n_features: int
    active: float
    """L0: features per token whose activation is not 0 (of circuit-tracer's topk also those below 0)."""
    explained: float | None
    """1 − squared error / variance about the mean, over the tokens that count; None where the output does not vary."""
    live: int
    """Features that fire, as L0 counts, on more than one in 10,000 tokens."""
    histogram: tuple[int, ...]
    """Features by log10 of their firing frequency, in the bins of `BINS`."""
    replaced: Loss | None
    """With this transcoder alone in its MLP's place; None for one of a cross-layer set, or if it was not asked for."""


@dataclass(frozen=True)
class TranscoderEvaluation(SavedAsJson):
    """What transcoders' numbers are, with everything that would change them."""

    original: Loss
    """The model itself."""
    transcoders: tuple[Judged, ...]
    zero: Mapping[int, Loss]
    """By layer: its MLP's output set to zero; empty without `ablations`."""
    mean: Mapping[int, Loss]
    """By layer: its MLP's output set to its mean over the tokens judged; likewise."""
    all: Mapping[str, Loss]
    """`replaced`, `zero` and `mean` with all the layers changed at once; empty if two transcoders are of one layer."""
    tokens: int
    """Next tokens that were predicted."""
    conditions: dict[str, Any] = field(default_factory=dict)


def evaluate_transcoders(
    model: Model,
    transcoders: Sequence[Transcoder],
    tokens: TokenRows,
    *,
    exclude_special: bool = True,
    alone: bool = True,
    together: bool = True,
    ablations: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TranscoderEvaluation:
    """Judge transcoders on text they were not trained on.

    Args:
        model: the model.
        transcoders: any number, also several of one layer; or one cross-layer set.
        tokens: the text. The loss is that of each row's tokens but the first, given those before.
        exclude_special: leave special tokens and each row's first out of L0 and explained variance, and let them keep
            the MLP's own output in every changed model (ablated ones too).
        alone: replace each by itself.
        together: also replace all at once, if no two are of one layer.
        ablations: also set each layer's output to zero and to its mean, which is two thirds of the work.
        progress: called with the rows done and all rows.

    Raises:
        InputError: a transcoder is not the model's, they cannot be replaced at once, or fewer than two of the text's
            tokens count.
    """
    if not transcoders or not len(tokens):
        raise InputError("evaluate: give at least one transcoder and one row of text")
    check_length(model, tokens.ids)
    for each in transcoders:
        check_transcoder(model, each)
        check_device(model, each)
    layers = sorted({site.layer for each in transcoders for site in each.spec.writes})
    firsts = [each.spec.writes[0].layer for each in transcoders]
    is_set = any(len(each.spec.writes) > 1 for each in transcoders)
    if is_set and len(set(firsts)) < len(firsts):
        raise InputError("evaluate: beside a cross-layer set there are others of its layers; judge one set at a time")
    if is_set:
        transcoders = sorted(transcoders, key=lambda each: each.spec.writes[0].layer)
    if int(real_tokens(model, tokens.ids, exclude_special=exclude_special).sum()) < 2:  # one has no variance
        raise InputError("text: fewer than two of its tokens count; give longer rows, or exclude_special=False")
    counts = Counts(model, transcoders, add_up=is_set)
    changes = _replacements(counts, exclude_special, alone, together)  # which refuse what is no set, before the text
    means = _means(model, tokens, layers, exclude_special) if ablations else {}
    changes |= _ablations(means, together="all replaced" in changes)
    own, rows = _run(counts, tokens, changes, exclude_special, progress)
    losses = {name: _loss(values, own) for name, values in rows.items()}
    return TranscoderEvaluation(
        _loss(torch.stack([own, torch.zeros_like(own)]), own),
        tuple(_judged(counts, i, losses.get(f"alone {i}")) for i in range(len(transcoders))),
        {layer: losses[f"zero {layer}"] for layer in means},
        {layer: losses[f"mean {layer}"] for layer in means},
        {name: losses[f"all {name}"] for name in ("replaced", "zero", "mean") if f"all {name}" in losses},
        len(tokens) * (tokens.ids.shape[1] - 1),
        {
            "model": model.identity,
            "text": tokens.source,
            "transcoders": [transcoder_record(each) for each in transcoders],
            "held_out": all(held_out(tokens.source, text) for each in transcoders for text in texts_seen(each)),
            "positions": "all but each row's first are predicted",
            "replaced_positions": "all but special tokens and each row's first" if exclude_special else "all",
            "interval": "of the loss added: 95 % percentile bootstrap over rows, 10,000 resamples, seed 0",
            "loss_unit": "nats per token",
            "kl_unit": "nats, KL(model ‖ changed model)",
            "mean_ablation": "the mean over the same tokens",
            "histogram_bins": [str(edge) for edge in BINS],
        },
    )


def _judged(counts: Counts, i: int, replaced: Loss | None) -> Judged:
    spec = counts.transcoders[i].spec
    return Judged(
        name=counts.transcoders[i].name or f"{spec.reads}, {spec.activation}",
        reads=str(spec.reads),
        writes=tuple(map(str, spec.writes)),
        activation=str(spec.activation),
        n_features=spec.n_features,
        active=counts.active(i),
        explained=counts.explained(i),
        live=counts.live(i),
        histogram=counts.histogram(i),
        replaced=replaced,
    )


@torch.no_grad()
def _means(model: Model, tokens: TokenRows, layers: Sequence[int], exclude: bool) -> dict[int, Float[Tensor, " D"]]:
    """Each layer's mean MLP output over the tokens that are replaced."""
    sites = [Site("mlp_out", layer) for layer in layers]
    sums, n = {site: torch.zeros(model.parts.d_model, dtype=torch.float64) for site in sites}, 0
    for ids in tokens.ids.split(max(1, 8 * _TOKENS // tokens.ids.shape[1])):
        keep = real_tokens(model, ids, exclude_special=exclude)
        n += int(keep.sum())
        for site, x in capture(model, sites, ids).items():
            sums[site] += x[keep.to(x.device)].to(finest(x.device)).sum(0).cpu()
    return {site.layer: (total / n).to(model.device, model.dtype) for site, total in sums.items()}


def _constant(value: Float[Tensor, " D"]) -> Substitute:
    return lambda residual, given, mlp: value.to(given.dtype).expand_as(given)


def _replacements(counts: Counts, exclude: bool, alone: bool, together: bool) -> dict[str, Change]:
    """By name: `alone 0` (the first transcoder) and so on, and `all replaced`."""
    model, transcoders = counts.model, counts.transcoders
    changes: dict[str, Change] = {}
    for i, each in enumerate(transcoders if alone and not counts.add_up else ()):
        changes[f"alone {i}"] = Replacement(model, each, exclude_special=exclude)
    if together and len({each.spec.writes[0].layer for each in transcoders}) == len(transcoders):
        changes["all replaced"] = Replacement(model, transcoders, exclude_special=exclude)
    return changes


def _ablations(means: Mapping[int, Float[Tensor, " D"]], together: bool) -> dict[str, Change]:
    """By name: `zero 8` and `mean 8` (an ablated layer) and so on, and `all zero` and `all mean`."""
    zeros = {layer: _constant(torch.zeros_like(mean)) for layer, mean in means.items()}
    constants = {layer: _constant(mean) for layer, mean in means.items()}
    changes: dict[str, Change] = {}
    for layer in means:
        changes |= {f"zero {layer}": {layer: zeros[layer]}, f"mean {layer}": {layer: constants[layer]}}
    if together and means:
        changes |= {"all zero": zeros, "all mean": constants}
    return changes


def _run(
    counts: Counts,
    tokens: TokenRows,
    changes: Mapping[str, Change],
    exclude: bool,
    progress: Callable[[int, int], None],
) -> tuple[Float[Tensor, " R"], dict[str, Float[Tensor, "2 R"]]]:
    """Each row's loss of the model itself, and of every changed one its loss and its KL; fills the counts."""
    model, blocks, original = counts.model, blocks_of(counts.model), list[Tensor]()
    rows: dict[str, list[Tensor]] = {name: [] for name in changes}
    for ids in tokens.ids.to(model.device).split(max(1, _TOKENS // tokens.ids.shape[1])):
        counts.add(ids, real_tokens(model, ids, exclude_special=exclude))
        with remembered(blocks) as outputs:
            log_p = _log_probabilities(model, ids)
        original.append(_losses(log_p, ids))
        if not bool(original[-1].isfinite().all()):
            raise InputError("evaluate: the model's own loss is not finite; its weights are spoiled")
        for name, change in changes.items():
            if isinstance(change, Replacement):
                lowest, changing = min(change.transcoders), change
            else:
                lowest, changing = min(change), substituted(model, change, exclude_special=exclude)
            with recalled(blocks, outputs[:lowest]), changing:
                changed = _log_probabilities(model, ids)
            kl = (log_p.exp() * (log_p - changed)).sum(-1).mean(1)
            rows[name].append(torch.stack([_losses(changed, ids), kl]))
        progress(sum(map(len, original)), len(tokens))
    return torch.cat(original), {name: torch.cat(values, 1) for name, values in rows.items()}


@torch.no_grad()
def _log_probabilities(model: Model, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S-1 V"]:
    """Of the next token, at all positions but the last."""
    logits = model.module(input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool)).logits
    return functional.log_softmax(logits[:, :-1].float(), -1)


def _losses(log_p: Float[Tensor, "B T V"], ids: Int[Tensor, "B T+1"]) -> Float[Tensor, " B"]:
    """Each row's mean loss."""
    return -log_p.gather(2, ids[:, 1:, None]).squeeze(2).mean(1)


def _loss(rows: Float[Tensor, "2 R"], own: Float[Tensor, " R"]) -> Loss:
    losses, kl = rows.cpu().double().numpy()
    if not np.isfinite(rows.cpu().numpy()).all():  # the model's own is checked before any other
        raise InputError("evaluate: a loss is not finite; the transcoder's weights are too large for this model")
    added = bootstrap(losses - own.cpu().double().numpy())
    return Loss(
        float(losses.mean()), added.value, added.low, added.high, float(kl.mean()), tuple(float(x) for x in losses)
    )
