"""What `edgewise transcoder show` prints."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import edgewise as ew
from edgewise.cli._print import line, table

if TYPE_CHECKING:
    from edgewise.transcoders.analysis import Named

_FROM_WEIGHTS = (
    "all from weights alone: an input multiplies a connection by an activation, norm scales and attention; "
    "length: of what is read through a head"
)


def files(transcoders: Sequence[ew.transcoders.Transcoder]) -> None:
    """What a file or folder holds, a line each."""
    width = max(len(each.name) for each in transcoders)
    for each in transcoders:
        spec, tokens = each.spec, each.provenance.get("method", {}).get("tokens")
        last = "" if len(spec.writes) == 1 else f" to {spec.writes[-1].key}"
        said = [f"{spec.n_features:,} features", str(spec.activation)]
        said += [name for name, has in (("skip", spec.skip), ("input bias", spec.input_bias)) if has]
        said += [f"trained on {tokens:,} tokens"] if tokens else []
        line(f"{each.name:{width}} {spec.reads.key} -> {spec.writes[0].key}{last}; {', '.join(said)}")


def feature(found: ew.transcoders.FeatureDescription) -> None:
    """One feature, from its weights."""
    line(f"{found.name}: reads {found.reads}, writes {', '.join(found.writes)}; bias {found.bias:+.3f}")
    line(_FROM_WEIGHTS)
    if found.features or found.readers:
        _sides(
            "features, on the residual stream", ("reads", "is read by"), _cells(found.features), _cells(found.readers)
        )
    _sides(
        "tokens that it reads (de-embedding)", ("raise it", "lower it"), _quoted(found.raising), _quoted(found.lowering)
    )
    if found.heads:
        rows = []
        for head in found.heads:
            features = "  ".join(f"{each.name} {each.weight:+.2f}" for each in head.features[:2]) or "–"
            tokens = "  ".join(text for text, _ in _quoted(head.raising[:3]))
            rows.append((head.name, features, tokens, f"{head.length:.3f}"))
        title = f"through heads, the longest of {found.n_heads}"
        table(title, ("head", "reads features", "raised by tokens", "length"), rows, left=3)
    _sides(
        "logits that it writes (unembedding)", ("raises", "lowers"), _quoted(found.promoted), _quoted(found.suppressed)
    )


_Cells = list[tuple[str, str]]


def _sides(title: str, words: tuple[str, str], first: _Cells, second: _Cells) -> None:
    """Two lists side by side."""
    rows = [(*a, *b) for a, b in zip_longest(first, second, fillvalue=("", ""))]
    table(title, (words[0], "connection", words[1], "connection"), rows)


def _cells(named: Sequence[Named]) -> _Cells:
    return [(each.name, f"{each.weight:+.3f}") for each in named]


def _quoted(named: Sequence[Named]) -> _Cells:
    return [(repr(each.name), f"{each.weight:+.3f}") for each in named]
