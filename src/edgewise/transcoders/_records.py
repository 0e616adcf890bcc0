"""What a transcoder's record says of its training: how much it saw, and of which texts."""

from typing import Any

from edgewise.runs import record_of
from edgewise.transcoders._transcoder import Transcoder


def trained_on(transcoder: Transcoder) -> str:
    """How many tokens it has seen in training, in words; empty where its record does not say it."""
    method = record_of(transcoder.provenance, "method")
    steps, batch = method.get("steps"), method.get("batch_tokens")
    # `tokens` is how many were asked for: the last batch may be left out, or the run may have been stopped.
    seen = steps * batch if isinstance(steps, int) and isinstance(batch, int) else method.get("tokens")
    if not isinstance(seen, int) or not seen:
        return ""
    return f"{seen:,} tokens{', stopped early' if method.get('stop') else ''}"


def texts_seen(transcoder: Transcoder) -> list[dict[str, Any]]:
    """The sources of the text that it was trained on, and of those of its tunings, the last first; an empty one where
    its record does not say it.
    """
    method = record_of(transcoder.provenance, "method")
    found, tuned = [record_of(method, "text")], record_of(method, "tuned")
    while tuned:
        found.append(record_of(tuned, "text"))
        tuned = record_of(tuned, "before")
    return found
