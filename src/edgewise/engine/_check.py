"""The check that every model passes before it is used.

With all masks 1 the engine must give the full model, with all masks 0 the ablated one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._ablation import Ablation
from edgewise.engine._engine import Engine
from edgewise.engine._probe import allowed_error, distance, random_prompts, worst
from edgewise.engine._writes import base_sums, constant_writes
from edgewise.models import CompiledTransformer, Model, Tokens


@dataclass(frozen=True)
class Check:
    """How far the engine is from the user's own module."""

    edges: int
    full_mask_error: float
    """Largest absolute logit difference with all masks 1, over the ablations interchange and zero."""
    empty_mask_error: float
    """The same with all masks 0, against the module on the corrupted prompts, or on what zero ablation leaves."""
    max_logit: float
    """Largest absolute logit of the full model; at least 1 for a compiled program."""
    tolerance: float
    """What the errors may be, as a share of `max_logit`."""

    @property
    def passed(self) -> bool:
        """Whether both errors are within the tolerance."""
        allowed = self.tolerance * self.max_logit
        return self.full_mask_error <= allowed and self.empty_mask_error <= allowed  # both false for NaN


@torch.no_grad()
def check(model: Model, **convention: Any) -> Check:
    """Compare the engine with the user's module on random prompts of unequal length.

    Args:
        model: the model.
        **convention: for `Model.graph`.
    """
    graph = model.graph(**convention)
    batch = random_prompts(model)
    ones, zeros = (torch.full((graph.n_edges,), value, device=model.device) for value in (1.0, 0.0))
    engine = Engine(model, graph)
    full, corrupted = _user_logits(model, batch, batch.clean), _user_logits(model, batch, batch.corrupted)
    full_errors, empty_errors = [distance(engine.full(batch), full)], [0.0]
    for skip in (False, True):  # the dense path, then the one that shares and leaves out
        full_errors.append(distance(engine.run(batch, ones, skip=skip), full))
        if graph.n_embeddings:
            empty_errors.append(distance(engine.run(batch, zeros, skip=skip), corrupted))
    if graph.n_embeddings:
        zero = Engine(model, graph, Ablation("zero"))
        full_errors.append(distance(zero.run(batch, ones), full))
        rest = base_sums(model.parts, graph, zero.ablation, constant_writes(model.parts, graph))[-1]
        nothing = model.parts.unembed(
            model.parts.final_norm.module(rest.to(model.dtype))
        )  # the module's own norm on what is left: biases
        empty_errors.append(distance(zero.run(batch, zeros), nothing))
    # A compiled program's outputs are numbers of order one, or 0 for every random prompt.
    scale = max(float(full.abs().max()), float(isinstance(model.module, CompiledTransformer)))
    return Check(graph.n_edges, worst(full_errors), worst(empty_errors), scale, allowed_error(model))


def require(model: Model) -> None:
    """Raise `InputError` unless the model passes `check`."""
    result = check(model)
    if not result.passed:
        raise InputError(
            f"model {model.source.get('id', '')!r}: the engine does not reproduce it (full mask off by "
            f"{result.full_mask_error:.1e}, empty mask by {result.empty_mask_error:.1e}, largest logit "
            f"{result.max_logit:.1e}); in a family of your own check its parts (post_norm, rotary, gate, biases, "
            "softcap, scale), and report one of ours with its configuration"
        )


def _user_logits(model: Model, batch: Any, tokens: Tokens) -> Tensor:
    """What the user's own module says: its `forward`, not the adapter's idea of it."""
    positions = torch.arange(tokens.ids.shape[1], device=model.device).expand_as(tokens.ids)
    output = model.module(input_ids=tokens.ids, attention_mask=tokens.mask.long(), position_ids=positions)
    return output.logits[batch.row, batch.position]
