"""One HTML file: the script and style that are checked in beside this file, and what they show.

The file asks for nothing: its content-security policy lets only this very script and style run (by their hashes) and
forbids every request. Names, prompts and labels are JSON inside a data element; the script sets them as text.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from edgewise.viewer._circuits import pack_circuits
from edgewise.viewer._feature_sets import ShownSet, pack_sets
from edgewise.viewer._graphs import ForeignFile, GraphArrays, pack_graphs
from edgewise.viewer._pack import Packer
from edgewise.viewer._read import Viewed

FORMAT = 1
"""Version of what a page carries; the script refuses another."""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page draws with JavaScript, which is switched off. It asks for nothing from the network.</noscript>
<div id="app"></div>
<script type="application/json" id="edgewise-header">{header}</script>
<script type="text/plain" id="edgewise-data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def page(
    what: Sequence[Viewed | GraphArrays | ForeignFile | ShownSet],
    *,
    title: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> str:
    """The page's text.

    Args:
        what: circuits, attribution graphs and feature sets to look at; the circuits stand side by side.
        title: of the page; made of the names of what is in it if None.
        labels: words for components and for the nodes of graphs, by their names or their features' (see `read_labels`).
    """
    packer = Packer()
    runs = [each for each in what if isinstance(each, Viewed)]
    graphs = [each for each in what if isinstance(each, GraphArrays)]
    foreign = [each for each in what if isinstance(each, ForeignFile)]
    sets = [each for each in what if isinstance(each, ShownSet)]
    names = [*(run.label for run in runs), *(graph.title for graph in graphs), *(file.name for file in foreign)]
    names += [each.found.name for each in sets]
    title = writable(title or ", ".join(names) or "edgewise")
    header: dict[str, Any] = {"format": FORMAT, "title": title, "labels": list((labels or {}).items())}
    header |= pack_circuits(runs, packer) | pack_graphs(graphs, foreign, packer) | pack_sets(sets, packer)
    packed = packer.packed(header)
    script, style = bundle("js"), bundle("css")
    return _PAGE.format(
        policy=_policy(script, style),
        title=escape(title),
        style=style,
        header=packed.header,
        data=packed.data,
        script=script,
    )


def writable(text: str) -> str:
    """A text as UTF-8 can hold it: a folder's name need not be UTF-8."""
    return text.encode("utf-8", "replace").decode()


@cache
def bundle(suffix: str) -> str:
    """The built script (`js`) or style (`css`)."""
    return files("edgewise.viewer").joinpath(f"bundle.{suffix}").read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    # Arithmetic runs in a worker made of this page's own script, hence blob:, which reaches no network.
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)} blob:",
            f"style-src {_hash(style)}",
            "worker-src blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
