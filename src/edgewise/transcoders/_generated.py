"""Text that the model writes itself: samples from its first token on, as many as wanted, the same at every call."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import atomic_path, finest, uniform
from edgewise.transcoders import TokenRows

_ROWS = 32  # of a part: sampled together, and a file of the cache
_SAMPLED = 401  # noise stream


def generated_tokens(
    model: Model,
    n_tokens: int,
    *,
    context: int = 128,
    seed: int = 0,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TokenRows:
    """Rows of tokens that the model samples, each from its BOS on (its EOS if it has no BOS), at temperature 1.

    Args:
        model: the model.
        n_tokens: how many, rounded down to whole rows; fewer are the first of more.
        context: tokens per row.
        seed: of the samples.
        cache: a folder that keeps what was sampled, part by part, for the next call; None: none.
        progress: called with the rows done and all rows.

    Raises:
        InputError: there is not one row, the model has neither token, fewer positions, or the cache is not readable.
    """
    model.check(hooks=False)  # the module itself is run, with whatever stands on it
    n_rows = n_tokens // context
    tokenizer = model.tokenizer
    # A compiled program's tokenizer has neither attribute.
    found = (getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    first = next((token for token in found if token is not None), None)
    if first is None:
        raise InputError("text generated: the model has no BOS and no EOS to begin with; give text of your own")
    if context < 2 or n_rows < 1:
        raise InputError(f"text generated: {n_tokens} tokens are less than one row of {context}; give more")
    longest = model.parts.n_positions
    if longest is not None and context > longest:
        raise InputError(f"text generated: rows of {context} tokens, and the model has {longest} positions")
    name = f"{model.identity['weights_hash'][:16]}-{context}-{seed}"
    folder = None if cache is None else Path(cache) / name
    parts = list[Tensor]()
    for part in range(-(-n_rows // _ROWS)):
        parts.append(_part(model, int(first), context, seed, part, folder))
        progress(min(n_rows, (part + 1) * _ROWS), n_rows)
    ids = torch.cat(parts)[:n_rows]
    rows = TokenRows(ids, {"text": ["generated"], "context": context, "seed": seed, "weights": name.split("-")[0]})
    return TokenRows(ids, rows.source | {"tokens": ids.numel(), "sha256": rows.digest})


def _part(model: Model, first: int, context: int, seed: int, part: int, folder: Path | None) -> Int[Tensor, "32 S"]:
    """A part's rows, from the cache where it has them."""
    path = None if folder is None else folder / f"part{part:06d}.npy"
    if path is not None and path.is_file():
        try:
            ids = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int64))
        except Exception as error:  # numpy raises what a damaged header leads to: SyntaxError, TokenError
            raise InputError(f"{path}: cannot be read; remove it, and it is made again") from error
        if ids.shape != (_ROWS, context):
            raise InputError(f"{path}: is not {_ROWS} rows of {context} tokens; remove it, and it is made again")
        return ids
    ids = _sampled(model, first, context, seed, part)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, ids.numpy().astype(np.int32))
    return ids


@torch.no_grad()
def _sampled(model: Model, first: int, context: int, seed: int, part: int) -> Int[Tensor, "32 S"]:
    """One token after the other: where a number drawn for row and position falls among the summed probabilities."""
    device = model.device
    ids = torch.full((_ROWS, context), first, device=device)
    past = None
    for position in range(1, context):
        out = model.module(input_ids=ids[:, position - 1 : position], past_key_values=past, use_cache=True)
        past = out.past_key_values
        sums = out.logits[:, -1].to(finest(device)).softmax(-1).cumsum(-1)  # (32, V)
        drawn = uniform(_ROWS, seed, part * context + position, _SAMPLED, device).to(sums.dtype)
        ids[:, position] = torch.searchsorted(sums, drawn[:, None] * sums[:, -1:]).squeeze(1)
    return ids.cpu()
