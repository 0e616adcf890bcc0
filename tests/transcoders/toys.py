"""Tiny models, texts and runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.transcoders import TokenRows, TranscoderLoss, modules_of
from edgewise.transcoders.training import Trained, TrainingConfig, train
from tests.tiny import VOCABULARY, tiny

CONTEXT = 8
ALL_KINDS = ("topk:4", "batch_topk:4", "relu@0.01", "jumprelu@0.01")


def text(n_rows: int = 64, seed: int = 0, context: int = CONTEXT) -> TokenRows:
    ids = torch.randint(VOCABULARY, (n_rows, context), generator=torch.Generator().manual_seed(seed))
    return TokenRows(ids, {"text": ["random"], "seed": seed})


def config(**changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {
        "layers": (0, 1),
        "activations": ("topk:4",),
        "features": 64,
        "tokens": 32 * 12,
        "batch_tokens": 32,
        "pool_tokens": 160,
        "lanes": 4,
        "warmup": 3,
        "learning_rate": 3e-3,
        "dead_after": 100,
        "precision": "float32",
        "objective": TranscoderLoss(auxiliary_k=4),
    }
    return TrainingConfig(**(settings | changes))


def learn(
    out: Path | None = None,
    model: Model | None = None,
    rows: TokenRows | None = None,
    seconds: float = 0.0,
    **changes: Any,
) -> Trained:
    options = RunOptions(out=out, progress=False, checkpoint_seconds=seconds)
    return train(model or tiny("gpt2", torch.float32), rows or text(), config(**changes), options=options)


def learn_in_double(out: Path) -> Trained:
    """Every kind of transcoder, of a model in float64."""
    return learn(out, tiny("gpt2"), activations=ALL_KINDS, skip=True, start="tokens", tokens=32 * 8)


@contextmanager
def writing(model: Model, *changes: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Within it, the first layers add to the stream what these make of an MLP's input and of what it would add."""
    with ExitStack() as stack:
        for layer, change in zip(model.parts.layers, changes, strict=False):
            modules = modules_of(layer)
            for handle in writing_between(modules.mlp, modules.last, change):
                stack.callback(handle.remove)
        yield


def writing_between(first: nn.Module, last: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> list[Any]:
    """Let the last module give what this makes of the first one's input and of what it would give; the hooks."""
    given: list[Tensor] = []

    def keep(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        given.append(arguments[0])

    def changed(_module: nn.Module, _arguments: Any, out: Tensor) -> Tensor:
        return change(given.pop(), out)

    return [first.register_forward_pre_hook(keep), last.register_forward_hook(changed)]


def weights(trained: Trained) -> dict[str, Tensor]:
    return {
        f"{name}/{i}/{key}": tensor.clone()
        for name, transcoders in trained.transcoders.items()
        for i, each in enumerate(transcoders)
        for key, tensor in each.state_dict().items()
    }


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    return sorted(
        {name for name in a.keys() | b.keys() if name not in a or name not in b or not a[name].equal(b[name])}
    )
