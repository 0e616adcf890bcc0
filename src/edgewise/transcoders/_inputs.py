"""What a run over a text works on, as its checkpoint has it: other inputs are another run."""

from collections.abc import Sequence
from typing import Any

from edgewise.models import Model, weights_hash
from edgewise.transcoders._text import TokenRows
from edgewise.transcoders._transcoder import Transcoder


def run_inputs(model: Model, tokens: TokenRows, transcoders: Sequence[Transcoder] = ()) -> dict[str, Any]:
    """The model, text and transcoders that decide a run's numbers, for the settings by which it is taken up again.

    Args:
        model: the model.
        tokens: the text, which need not have a name: its tokens and the length of its rows tell it from others.
        transcoders: the transcoders as the run begins, in order. Weights alone do not tell them: the same weights may
            be read at another site, with another k, or without special tokens.

    Returns:
        Plain values: `model`, `text` and, where there are some, `transcoders`.
    """
    found: dict[str, Any] = {
        "model": model.identity,
        "text": {**tokens.source, "shape": list(tokens.ids.shape), "ids_sha256": tokens.digest},
    }
    if transcoders:
        found["transcoders"] = [transcoder_record(each) for each in transcoders]
    return found


def transcoder_record(transcoder: Transcoder) -> dict[str, Any]:
    """What tells a transcoder from all others, as plain values."""
    said = transcoder.spec.to_dict()
    return {**said, "writes": list(said["writes"]), "weights_hash": weights_hash(transcoder)}  # as JSON has it
