"""Reading graph JSON (see `_neuronpedia`): this library's, circuit-tracer's of any year, Neuronpedia's, Anthropic's."""

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._graph import KINDS, Kind, NodeTable
from edgewise.attribution.formats._file_keys import LINK, METADATA, NODE, TOP
from edgewise.attribution.formats._foreign import VIRTUAL, Found, assembled, sources_first
from edgewise.attribution.formats._neuronpedia import BIAS_FEATURES, MOST_BYTES, NEURONS, POSITION_FEATURE
from edgewise.runs import check_nesting

_OUTPUT = re.compile(r'Output "(.*)" \(p=\d+(?:\.\d*)?\)', re.DOTALL)
_PROBABILITY = re.compile(r".*\(p=(\d+(?:\.\d*)?)\)", re.DOTALL)  # the last: a token's own text may look like one
_ID = re.compile(r"(E|\d+)_(\d+)_(\d+)")
_OLD_ERROR = re.compile(r"0_\d+_\d+")
_MOST_LAYERS, _MOST_INDEX = 1 << 16, 1 << 31
_BIASES: dict[int, Kind] = {number: kind for kind, number in BIAS_FEATURES.items()}
_INNER = ("cross layer transcoder", "unexplored node")  # the latter is Anthropic's, for a feature


@dataclass(frozen=True)
class _Node:
    """One node of a file."""

    id: str
    kind: Kind
    layer: int
    position: int
    index: int
    value: float = math.nan
    token: int = -1
    """Of an embedding or a root; −1 where the file does not say it."""
    name: str = ""
    """Of a root."""
    weight: float = 0.0
    """Of a root."""
    label: str = ""


def read(path: Path) -> AttributionGraph:
    """Read a graph. Labels, groups and pinned nodes are kept in `provenance`, and written again.

    Raises:
        InputError: the file is too large, is no such JSON, lacks what the format requires, has attention features, or
            is no attribution graph (see `assembled`).
    """
    content = _json(path)
    metadata = _required(path, content, "metadata", dict)
    TOP.check(path, content)
    METADATA.check(path, metadata)
    for keys, name in ((NODE, "nodes"), (LINK, "links")):
        keys.check(path, _all_keys(content.get(name)))
    tokens = _required(path, metadata, "prompt_tokens", list)
    if not tokens or not all(isinstance(token, str) for token in tokens):
        raise InputError(f"{path}: metadata.prompt_tokens are to be strings, one at least")
    own = metadata.get("edgewise")
    own = {name: _mapping(own, name) for name in ("settings", "provenance")} if isinstance(own, dict) else None
    scan = str(metadata.get("scan", ""))
    of_neurons = scan.endswith(NEURONS) if own is None else own["settings"].get("nodes") == "neurons"
    reader = _Reader(
        path, len(tokens), metadata.get("schema_version") is not None, "neuron" if of_neurons else "feature"
    )
    nodes = reader.numbered([reader.node(i, each) for i, each in enumerate(_required(path, content, "nodes", list))])
    links, unclear = _links(path, _required(path, content, "links", list), nodes)
    roots = [node for node in nodes if node.kind == "root"]
    found = Found(
        _table(nodes),
        torch.tensor([target for _, target, _ in links], dtype=torch.long),
        torch.tensor([source for source, _, _ in links], dtype=torch.long),
        torch.tensor([weight for _, _, weight in links], dtype=torch.float64),
        _ids(nodes, len(tokens)),
        tuple(tokens),
        tuple(root.name for root in roots),
        torch.tensor([root.weight for root in roots], dtype=torch.float32),
    )
    settings = {"nodes": "neurons" if of_neurons else "features"} if own is None else own["settings"]
    settings = settings | {"root_tokens": [root.token if root.token < VIRTUAL else -1 for root in roots]}
    said = {name: metadata[name] for name in ("scan", "slug", "prompt", "transcoder_list") if name in metadata}
    provenance = {"format": "graph JSON", **said} if own is None else own["provenance"]
    graph = assembled(path, found, settings, provenance | ({"unclear_links": unclear} if unclear else {}))
    names = dict(zip(sources_first(found.nodes).tolist(), graph.names, strict=True))
    provenance = graph.provenance | _annotations(content.get("qParams"), nodes, [names[i] for i in range(len(nodes))])
    return replace(graph, provenance=provenance)


def _json(path: Path) -> dict[str, Any]:
    """The file's object. Raises `InputError`."""

    def refuse(what: str) -> NoReturn:
        raise ValueError(f"{what}, which is no number of JSON")

    try:
        size, text = path.stat().st_size, ""
        if size <= MOST_BYTES:
            text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); give an existing file"
        ) from error
    if not text:
        reason = f"{size >> 20} MiB; graph JSON of up to {MOST_BYTES >> 20} MiB is read, so prune it first"
        raise InputError(f"{path}: {reason}")
    try:
        content = json.loads(text, parse_constant=refuse)
        check_nesting(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({' '.join(str(error).split())[:100]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object; a graph has metadata, qParams, nodes and links")
    return content


def _all_keys(rows: Any) -> dict[str, Any]:
    """Every key that some row has; none of what is no list."""
    rows = rows if isinstance(rows, list) else ()
    return dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row)


def _required(path: Path, where: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(where.get(name), kind):
        what = {dict: "an object", list: "a list"}[kind]
        raise InputError(
            f"{path}: it has no {name}, or it is not {what}; a graph has metadata, qParams, nodes and links"
        )
    return where[name]


def _mapping(where: dict[str, Any], name: str) -> dict[str, Any]:
    return where[name] if isinstance(where.get(name), dict) else {}


@dataclass(frozen=True)
class _Reader:
    """Reads the nodes of one file."""

    path: Path
    length: int
    """Tokens of the prompt."""
    coded: bool
    """Whether features are numbered by Cantor's pairing."""
    inner: Kind
    """What features are."""

    def node(self, place: int, given: Any) -> _Node:
        """One node. Raises `InputError`."""
        where = f"{self.path}: nodes[{place}]"
        if not isinstance(given, dict) or not isinstance(given.get("node_id"), str):
            raise InputError(f"{where} has no node_id, or is no object")
        where += f" ({given['node_id'][:40]!r})"
        position, of_type, label = given.get("ctx_idx"), given.get("feature_type"), given.get("clerp") or ""
        if type(position) is not int or not 0 <= position < self.length:
            raise InputError(f"{where}: ctx_idx {position!r:.40}; the prompt has positions 0 to {self.length - 1}")
        if not isinstance(label, str):
            raise InputError(f"{where}: clerp is {label!r:.40}; give a text")
        value = _number(where, "activation", given.get("activation"), math.nan)
        feature = given.get("feature")
        if of_type == "embedding":
            token = _ID.fullmatch(given["node_id"])
            kind: Kind = "position" if feature == POSITION_FEATURE else "token"
            number = -1 if token is None else _within(where, "token", int(token[2]))
            return _Node(given["node_id"], kind, -1, position, number, token=number)
        layer = self.layer(where, given.get("layer"))
        if of_type == "logit":
            return self.root(where, given, layer, value)
        if of_type == "mlp reconstruction error":
            return _Node(given["node_id"], "error", layer, position, -1, label=label)
        if of_type == "bias" and isinstance(feature, int) and feature in _BIASES:
            return _Node(given["node_id"], _BIASES[feature], layer, -1, -1, label=label)
        if of_type not in _INNER:
            raise InputError(f"{where}: feature_type {of_type!r:.40} is not read, only MLP features, errors and tokens")
        return _Node(given["node_id"], self.inner, layer, position, self.index(where, given, layer), value, label=label)

    def layer(self, where: str, given: Any) -> int:
        found = int(given) if isinstance(given, str) and given.isdecimal() and len(given) < 10 else given
        if type(found) is not int or not 0 <= found < _MOST_LAYERS:
            raise InputError(f"{where}: layer {given!r:.40}; give a layer's number")
        return found

    def index(self, where: str, given: dict[str, Any], layer: int) -> int:
        """Which feature of its layer."""
        feature, by_id = given.get("feature"), _ID.fullmatch(given["node_id"])
        says_itself = by_id is not None and (by_id[1], by_id[3]) == (str(layer), str(given["ctx_idx"]))
        if by_id is not None and says_itself and (not self.coded or feature is None):
            return _within(where, "feature", int(by_id[2]))
        if type(feature) is not int or feature < 0:
            raise InputError(f"{where}: feature {feature!r:.40}; give its number")
        if not self.coded:
            return _within(where, "feature", feature)
        diagonal = (math.isqrt(8 * feature + 1) - 1) // 2
        index = feature - diagonal * (diagonal + 1) // 2
        if diagonal - index != layer:
            raise InputError(f"{where}: feature {str(feature)[:20]} stands for no feature of layer {layer}")
        return _within(where, "feature", index)

    def root(self, where: str, given: dict[str, Any], layer: int, value: float) -> _Node:
        by_id, feature, label = _ID.fullmatch(given["node_id"]), given.get("feature"), given.get("clerp") or ""
        token = int(by_id[2]) if by_id is not None else feature if type(feature) is int and feature >= 0 else -1
        said = _OUTPUT.fullmatch(label)
        name = (label or str(token)) if said is None else said[1]
        likely = _PROBABILITY.match(label)
        weight = _number(where, "token_prob", given.get("token_prob"), math.nan if likely is None else float(likely[1]))
        token = _within(where, "token", token)
        return _Node(given["node_id"], "root", layer, given["ctx_idx"], -1, value, token, name, weight)

    def numbered(self, nodes: list[_Node]) -> list[_Node]:
        """With the roots' places, layers and weights. Raises `InputError` if there are none."""
        roots = [node for node in nodes if node.kind == "root"]
        if not roots:
            raise InputError(
                f"{self.path}: it has no node of type logit, so it explains nothing; give a graph with a logit"
            )
        untold = sum(math.isnan(root.weight) for root in roots)
        if untold and len(roots) > 1:  # the weight of one alone changes no share
            warnings.warn(
                f"{self.path}: {untold} of {len(roots)} logits have no token_prob; each of these counts as 1",
                stacklevel=2,
            )
        inner = (node.layer + (node.kind in (self.inner, "error")) for node in nodes if node.kind != "root")
        n_layers = max(max(inner, default=0), max(root.layer for root in roots) - 1)
        weights = iter(1.0 if math.isnan(root.weight) else root.weight for root in roots)
        places = iter(range(len(roots)))
        return [
            replace(node, layer=n_layers, index=next(places), weight=next(weights)) if node.kind == "root" else node
            for node in nodes
        ]


def _number(where: str, name: str, given: Any, default: float) -> float:
    if given is None:
        return default
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not abs(given) < 1e300:
        raise InputError(f"{where}: {name} {str(given)[:20]}; give a finite number")
    return float(given)


def _within(where: str, what: str, number: int) -> int:
    if number >= _MOST_INDEX:
        raise InputError(f"{where}: {what} {str(number)[:20]} is too large a number")
    return number


def _links(path: Path, given: list[Any], nodes: list[_Node]) -> tuple[list[tuple[int, int, float]], int]:
    """Source, target and weight of each link, and of how many the source is not clear.

    An error may have the id of a feature of layer 0. Then, of two links from that id to one target, the first is the
    feature's, as circuit-tracer writes them; a single one is counted as the feature's, and is not clear.
    """
    numbers, errors = dict[str, int](), dict[str, int]()
    for number, node in enumerate(nodes):
        if node.id not in numbers:
            numbers[node.id] = number
            continue
        other = nodes[numbers[node.id]]
        if _OLD_ERROR.fullmatch(node.id) is None or (node.kind == "error") == (other.kind == "error"):
            raise InputError(f"{path}: two nodes have the node_id {node.id[:40]!r}")
        errors[node.id] = number if node.kind == "error" else numbers[node.id]
        numbers[node.id] = numbers[node.id] if node.kind == "error" else number
    links, seen = list[tuple[int, int, float]](), Counter[tuple[str, str]]()
    for place, each in enumerate(given):
        where = f"{path}: links[{place}]"
        source, target, weight = _ends(where, each, numbers)
        if source in errors:
            seen[source, target] += 1
        start = errors[source] if seen.get((source, target), 0) == 2 else numbers[source]
        links.append((start, numbers[target], weight))
    return links, sum(count == 1 for count in seen.values())


def _ends(where: str, link: Any, numbers: dict[str, int]) -> tuple[str, str, float]:
    """A link's source, target and weight. Raises `InputError`."""
    if not isinstance(link, dict):
        raise InputError(f"{where} is no object")
    for name in ("source", "target"):
        if not isinstance(link.get(name), str) or link[name] not in numbers:
            raise InputError(f"{where}: its {name} {link.get(name)!r:.40} is not a node of the file")
    weight = link.get("weight")
    if weight is None:
        raise InputError(f"{where} has no weight")
    return link["source"], link["target"], _number(where, "weight", weight, 0.0)


def _table(nodes: list[_Node]) -> NodeTable:
    return NodeTable(
        torch.tensor([KINDS.index(node.kind) for node in nodes]),
        torch.tensor([node.layer for node in nodes]),
        torch.tensor([node.position for node in nodes]),
        torch.tensor([node.index for node in nodes]),
        torch.tensor([node.value for node in nodes], dtype=torch.float64),
    )


def _ids(nodes: list[_Node], length: int) -> Int[Tensor, " S"]:
    """The prompt's tokens, as far as the file says them."""
    ids = torch.full((length,), -1)
    for node in nodes:
        if node.kind == "token":
            ids[node.position] = node.token
    return ids


def _annotations(saved: Any, nodes: list[_Node], names: list[str]) -> dict[str, Any]:
    """Labels that say more than a name, and the groups and pinned nodes that a viewer had saved."""
    by_id = dict(zip((node.id for node in nodes), names, strict=True))
    labels = {name: node.label for node, name in zip(nodes, names, strict=True) if node.label not in ("", name)}
    saved = saved if isinstance(saved, dict) else {}
    groups = [
        [group[0], *(by_id[each] for each in group[1:] if each in by_id)] for group in _texts(saved.get("supernodes"))
    ]
    pinned = [by_id[each] for each in next(_texts([saved.get("pinnedIds")]), []) if each in by_id]
    found = {"labels": labels, "saved": {"groups": groups, "pinned": pinned} if groups or pinned else None}
    return {name: value for name, value in found.items() if value}


def _texts(given: Any) -> Iterator[list[str]]:
    """Those entries of a list that are lists of strings, one at least."""
    for each in given if isinstance(given, list) else []:
        if isinstance(each, list) and each and all(isinstance(text, str) for text in each):
            yield each
