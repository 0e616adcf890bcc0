"""Transcoders and autoencoders of several sparsities, trained on the same tokens, judged on the same held-out ones."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import RunOptions, SavedAsJson
from edgewise.transcoders import TokenRows
from edgewise.transcoders.judging import Judged, Loss, TranscoderEvaluation, evaluate_transcoders
from edgewise.transcoders.training._config import TrainingConfig
from edgewise.transcoders.training._train import train


@dataclass(frozen=True)
class Sweep(SavedAsJson):
    """What a sweep found: every job's numbers beside the model's own and the ablations'."""

    original: Loss
    zero: dict[int, Loss]
    mean: dict[int, Loss]
    jobs: dict[str, Judged]
    config: dict[str, Any]
    conditions: dict[str, Any]
    seconds: float
    """Of the training."""

    def points(self, layer: int) -> list[tuple[str, float, Loss]]:
        """Kind, active features and loss of each job of a layer."""
        found = []
        for name, judged in self.jobs.items():
            where, kind, _ = name.split(".", 2)
            if where == f"layer{layer}" and judged.replaced is not None:
                found.append((kind, judged.active, judged.replaced))
        return found


def sweep(
    model: Model,
    tokens: TokenRows,
    held_out: TokenRows,
    config: TrainingConfig,
    *,
    options: RunOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sweep:
    """Train every combination of kind, layer and activation, then judge each in its MLP's place.

    Args:
        model: the model.
        tokens: to train on.
        held_out: to judge on.
        config: what, and how; `kinds` is usually `("transcoder", "autoencoder")`.
        options: checkpoints, progress, logs of the training.
        progress: of the judging: called with the rows done and all rows.

    Raises:
        InputError: as `train` and `evaluate_transcoders`; or a cross-layer set is asked for, which replaces all layers
            at once; or the training came to numbers that are not finite.
        KeyboardInterrupt: the training was interrupted; the same call goes on from there.
    """
    if "cross-layer" in config.kinds:
        raise InputError("sweep: a cross-layer set replaces all of its layers; train and evaluate it by itself")
    trained = train(model, tokens, config, options=options)
    if trained.interrupted:
        raise KeyboardInterrupt(trained.stopped or f"interrupted after step {trained.steps}, the last")
    if trained.stopped:
        raise InputError(f"sweep: the training was {trained.stopped}; the same command goes on from there")
    names = list(trained.transcoders)
    found: TranscoderEvaluation = evaluate_transcoders(
        model,
        [trained.transcoders[name][0] for name in names],
        held_out,
        exclude_special=config.exclude_special,
        together=False,
        progress=progress,
    )
    return Sweep(
        found.original,
        dict(found.zero),
        dict(found.mean),
        dict(zip(names, found.transcoders, strict=True)),
        asdict(config.on(model.device)) | {"text": tokens.source, "tokens_seen": trained.steps * config.batch_tokens},
        found.conditions,
        trained.seconds,
    )
