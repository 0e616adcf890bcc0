"""The check that every model passes before it is used.

With all masks 1 the engine must give the full model, with all masks 0 the ablated one.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.engine._ablation import Ablation
from edgewise.engine._engine import Engine
from edgewise.engine._packing import pack
from edgewise.engine._probe import ROUND_OFFS, allowed_error, distance, prompt_beyond_windows, random_prompts, worst
from edgewise.engine._round_off import run_in_double
from edgewise.engine._writes import base_sums, constant_writes, trace_and_sums
from edgewise.models import CompiledTransformer, Model, Tokens, block


@dataclass(frozen=True)
class Check:
    """How far the engine is from the user's own module."""

    edges: int
    full_mask_error: float
    """Largest absolute logit difference with all masks 1, over the ablations interchange and zero; and without masks on
    a prompt beyond the attention windows, where there is one (see `check`)."""
    empty_mask_error: float
    """The same with all masks 0, against the module on the corrupted prompts, or on what zero ablation leaves."""
    max_logit: float
    """Largest absolute logit of the full model; at least 1 for a compiled program. NaN if a logit is not finite."""
    tolerance: float
    """What the errors may be in any case, as a share of `max_logit`."""
    own_error: float | None = None
    """How far the module's own logits are from what its weights give in float64; None if not known."""

    @property
    def allowed(self) -> float:
        """What the errors may be: the tolerance, or a few times the module's own error."""
        return max(self.tolerance * self.max_logit, ROUND_OFFS * (self.own_error or 0.0))

    @property
    def passed(self) -> bool:
        """Whether both errors are allowed."""
        return self.full_mask_error <= self.allowed and self.empty_mask_error <= self.allowed  # both false for NaN


@torch.no_grad()
def check(model: Model, *, own: bool = False, **convention: Any) -> Check:
    """Compare the engine with the user's module on random prompts of unequal length, at most 9 tokens.

    Where the parts or the module's configuration name an attention window of 9 to 254 tokens, the engine's plain run,
    without masks, is compared on a prompt two tokens longer too. Wider windows are not tried, since that would take as
    long as they are wide.

    Args:
        model: the model.
        own: measure the module's own error even where the engine is near enough without.
        **convention: for `Model.graph`.

    Raises:
        InputError: the module does not run.
    """
    graph = model.graph(**convention)
    batch, beyond = random_prompts(model), prompt_beyond_windows(model)
    ones = torch.ones(graph.n_edges, dtype=torch.float32, device=model.device)
    zeros = torch.zeros_like(ones)
    engine = Engine(model, graph)
    asked = [(batch, batch.clean), (batch, batch.corrupted), *([] if beyond is None else [(beyond, beyond.clean)])]
    try:
        full, corrupted, *long = (_user_logits(model.module, *each) for each in asked)
    except Exception as error:  # whatever the user's module does, the user needs one line
        raise InputError(f"{_name(model)}: its own forward fails ({_line(error)}){_blame(model)}") from error
    full_errors, empty_errors = [distance(engine.full(batch), full)], [0.0]
    full_errors += [distance(_plain_logits(model, beyond), logits) for logits in long]
    for skip in (False, True):  # the dense path, then the one that shares and leaves out
        full_errors.append(distance(engine.run(batch, ones, skip=skip), full))
        if graph.n_embeddings:
            empty_errors.append(distance(engine.run(batch, zeros, skip=skip), corrupted))
    if graph.n_embeddings:
        zero = Engine(model, graph, Ablation("zero"))
        full_errors.append(distance(zero.run(batch, ones), full))
        rest = base_sums(model.parts, graph, zero.ablation, constant_writes(model.parts, graph))[-1]
        # The module's own norm on what is left: biases.
        nothing = model.parts.unembed(model.parts.final_norm.module(rest.to(model.dtype)))
        empty_errors.append(distance(zero.run(batch, zeros), nothing))
    # A compiled program's outputs are numbers of order one, or 0 for every random prompt.
    scale = max(float(full.abs().max()), float(isinstance(model.module, CompiledTransformer)))
    scale = scale if bool(full.isfinite().all() and corrupted.isfinite().all()) else math.nan
    found = Check(graph.n_edges, worst(full_errors), worst(empty_errors), scale, allowed_error(model))
    if math.isnan(scale) or (found.passed and not own):
        return found
    exact = run_in_double(model.module, lambda module: _unpadded_logits(module, batch))
    own_error = None if exact is None else distance(torch.stack([full, corrupted], 1).flatten(0, 1), exact)
    return replace(found, own_error=own_error)


def require(model: Model) -> None:
    """Raise `InputError` unless the model passes `check`."""
    result = check(model)
    if math.isnan(result.max_logit):
        raise InputError(
            f"{_name(model)}: its own logits are not finite, in {model.dtype}; load it in another type, such as "
            "float32, or look for weights that are not finite"
        )
    if not result.passed:
        raise InputError(
            f"{_name(model)}: the engine does not reproduce it (full mask off by {result.full_mask_error:.1e}, empty "
            f"mask by {result.empty_mask_error:.1e}, allowed {result.allowed:.1e}, largest logit "
            f"{result.max_logit:.1e}){_blame(model)}; in a family of your own check its parts (post_norm, rotary, "
            "gate, biases, softcap, scale), and report one of ours with its configuration"
        )


def _name(model: Model) -> str:
    return f"model {model.source.get('id', '')!r}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def _blame(model: Model) -> str:
    """What of the user's module may be why, for a message."""
    found = ""
    hooked = [name for name, part in model.module.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    if hooked:
        found += f"; hooks stand on {', '.join(name or 'the model' for name in hooked[:3])}: remove them"
    types = Counter(str(x.dtype).removeprefix("torch.") for x in model.module.parameters() if x.is_floating_point())
    if len(types) > 1:
        (most, _), *rest = types.most_common()
        found += f"; its weights are of several types ({most}, and {', '.join(name for name, _ in rest)}): give all one"
    return found


def _user_logits(module: nn.Module, batch: Any, tokens: Tokens) -> Tensor:
    """What the user's own module says: its `forward`, not the adapter's idea of it."""
    positions = torch.arange(tokens.ids.shape[1], device=tokens.ids.device).expand_as(tokens.ids)
    output: Any = module(input_ids=tokens.ids, attention_mask=tokens.mask.long(), position_ids=positions)
    return output.logits[batch.row, batch.position]


def _plain_logits(model: Model, batch: Any) -> Tensor:
    """What the engine's plain run says, which ablated values come from."""
    packing = pack(batch.clean)
    final = trace_and_sums(model.parts, model.graph(), Ablation(), packing)[1][-1]
    targets = packing.where(batch.row, batch.position)
    return model.parts.unembed(block.normed(model.parts.final_norm, final[targets]))


def _unpadded_logits(module: nn.Module, batch: Any) -> Tensor:
    """The same of clean and corrupted by turns, pair by pair: in float64, masks of padding are more than the softmax of
    `transformers` takes.
    """
    pairs = zip(batch.clean.ids, batch.corrupted.ids, batch.clean.mask, strict=True)
    rows = (torch.stack([clean[real], corrupted[real]]) for clean, corrupted, real in pairs)
    return torch.cat([module(input_ids=ids).logits[:, -1] for ids in rows])
