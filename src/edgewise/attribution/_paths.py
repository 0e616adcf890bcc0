"""Greedy paths down from a root, and the graph that they make (Dunefsky et al. 2024, algorithms 1 and 2).

Algorithm 1, from the root alone, `steps` times:

1. For each path that can go on, take the `branches` strongest of all that writes to what it has come to.
2. Of all paths made so, keep the `branches` that give most to the root. They are part of the result, and go on.

(The paper takes the strongest of each layer before those of all, which are the same, but that it keeps no more of a
layer's reads by heads than it has heads; and it looks at positive ones alone.)

Algorithm 2: each beginning of a path counts once, with what it gives to the root, for its last node and for the edge
from there to the node before.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._features import Features, by_layer
from edgewise.attribution._frozen import frozen_run
from edgewise.attribution._graph import BIASES
from edgewise.attribution._kinds import token_ids
from edgewise.attribution._steps import STEP_KINDS, Front, Stepper, Steps, step_names
from edgewise.attribution._targets import Target, roots
from edgewise.models import Model
from edgewise.runs import Count, SavedAsJson, check_settings
from edgewise.transcoders import TokenTexts, Transcoder


@dataclass(frozen=True)
class PathConfig:
    """How paths are searched."""

    steps: Count = 4
    """How often paths grow by a node."""
    branches: Count = 15
    """How many are kept of each length, and how many ways on from each are looked at (the paper's studies: 15)."""
    negative: bool = True
    """Whether what lowers the root is followed too; otherwise what raises it alone, as in the paper."""
    first: bool = False
    """Whether heads' reads of the first token are followed; many heads attend to it on every prompt."""
    errors: bool = True
    """Whether paths may end at what transcoders get wrong, and at MLPs without one."""
    biases: bool = False
    """Whether they may end at biases."""

    def __post_init__(self) -> None:
        """Check the values. Raises `InputError`."""
        check_settings("paths", self)


class PathNode(NamedTuple):
    """A node of a path, and what the path down to it gives to the root: `activation · scale · connection`."""

    name: str
    """Such as `m4.f17@6`; `a9.h1@6` is what a head reads at position 6."""
    contribution: float
    activation: float
    """A feature's; 1 of anything else."""
    scale: float
    """Norm scales and attention on the way: the input's."""
    connection: float
    """The weights' alone where the node is a feature, token or position; otherwise of what stands there on the
    input."""


class Path(NamedTuple):
    """From the root down."""

    nodes: tuple[PathNode, ...]

    @property
    def contribution(self) -> float:
        """What its last node gives to the root along it."""
        return self.nodes[-1].contribution

    @property
    def names(self) -> tuple[str, ...]:
        """Of its nodes."""
        return tuple(node.name for node in self.nodes)


class PathEdge(NamedTuple):
    """What flows to the root along an edge, over all paths through it."""

    source: str
    target: str
    weight: float


@dataclass(frozen=True)
class PathGraph(SavedAsJson):
    """The graph that paths make."""

    root: str
    nodes: dict[str, float]
    """What each node gives to the root along these paths, the largest first; the root's own value."""
    edges: tuple[PathEdge, ...]
    """The largest first."""

    def rest(self, node: str) -> float:
        """What a node gives to the root, less what flows into it along these paths: what they have left out."""
        return self.nodes[node] - sum(each.weight for each in self.edges if each.target == node)


@dataclass(frozen=True)
class PathSearch(SavedAsJson):
    """Paths down from a root on one prompt."""

    root: str
    value: float
    """The root's."""
    tokens: tuple[str, ...]
    """The prompt's."""
    paths: tuple[Path, ...]
    """Of every length, the shorter first, those of a length by what they give."""
    settings: dict[str, Any]
    residual: float
    """The root's value less all that writes to what it reads, by the sum of their sizes: round-off."""

    @property
    def longest(self) -> list[Path]:
        """Those that are no other's beginning, the largest first."""
        begun = {each.names[:-1] for each in self.paths}
        return sorted(
            (each for each in self.paths if each.names not in begun), key=lambda each: -abs(each.contribution)
        )

    def graph(self) -> PathGraph:
        """The graph of the paths (algorithm 2). Sums over all paths through a node, whatever led to it."""
        nodes, edges = {self.root: self.value}, dict[tuple[str, str], float]()
        for path in self.paths:  # with each path all its beginnings are among them, once
            source, target = path.names[-1], path.names[-2]
            nodes[source] = nodes.get(source, 0.0) + path.contribution
            edges[source, target] = edges.get((source, target), 0.0) + path.contribution
        ordered = dict(sorted(nodes.items(), key=lambda each: -abs(each[1])))
        found = [PathEdge(*ends, weight) for ends, weight in edges.items()]
        return PathGraph(self.root, ordered, tuple(sorted(found, key=lambda each: -abs(each.weight))))


@torch.no_grad()
def greedy_paths(
    model: Model,
    prompt: str | Sequence[int] | Int[Tensor, " S"],
    transcoders: Transcoder | Sequence[Transcoder],
    root: Target,
    config: PathConfig | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> PathSearch:
    """The paths that give most to a feature or a logit on a prompt, found from the root down.

    Args:
        model: the model.
        prompt: a text, or its tokens `[S]`.
        transcoders: at most one for each layer, or a cross-layer set. MLPs without one are errors.
        root: a feature such as `m12.f410@-1`, a token, or a name and a direction, as for `attribute`.
        config: how they are searched.
        dtype: of all activations and sums; None: the weights', and at least float32.

    Raises:
        InputError: as for `attribute`, or the root is several tokens.
    """
    config = config or PathConfig()
    run = frozen_run(model, token_ids(model, prompt), dtype)
    nodes = Features(run, by_layer(model, transcoders))
    found = roots(nodes, root)
    if len(found) != 1:
        raise InputError(f"root: {len(found)} of them; give one, such as m12.f410@-1 or a token")
    stepper, top = Stepper(nodes), found[0]
    start = stepper.root(top)
    live = [(Path((PathNode(top.name, top.value, 1.0, start.scale, top.value / start.scale),)), start)]
    paths = list[Path]()
    for _ in range(config.steps):
        grown = [each for path, front in live for each in _grown(stepper, path, front, config)]
        kept = sorted(grown, key=lambda each: -abs(each.path.contribution))[: config.branches]
        paths += [each.path for each in kept]
        ways = [(each.path, stepper.follow(each.front, each.steps, each.at)) for each in kept]
        live = [(path, front) for path, front in ways if front is not None]
    texts = TokenTexts(model.tokenizer)
    tokens = tuple(texts.shown(token) for token in run.ids.tolist())
    into = stepper.steps(start).weight.cpu().double()
    residual = float((top.value - into.sum()).abs() / into.abs().sum().clamp(min=1e-30))
    return PathSearch(top.name, top.value, tokens, tuple(paths), asdict(config), residual)


class _Grown(NamedTuple):
    """A path with one node more, and how it came there."""

    path: Path
    front: Front
    steps: Steps
    at: int


def _grown(stepper: Stepper, path: Path, front: Front, config: PathConfig) -> list[_Grown]:
    """A path, longer by each of the strongest ways on."""
    steps = stepper.steps(front)
    steps = steps.take(_wanted(steps, config))
    weight = steps.weight
    size = weight.abs() if config.negative else weight
    best = steps.take(size.topk(min(config.branches, len(size))).indices)
    names = step_names(best, len(stepper.run.layers))
    columns = zip(names, *(x.tolist() for x in (best.weight, *best[4:])), strict=True)
    return [_Grown(Path((*path.nodes, PathNode(*each))), front, best, at) for at, each in enumerate(columns)]


def _wanted(steps: Steps, config: PathConfig) -> Bool[Tensor, " n"]:
    """Which ways on are looked at."""
    heads = steps.kind == STEP_KINDS.index("head")
    keep = steps.weight != 0 if config.negative else steps.weight > 0
    left_out = (() if config.errors else ("error",)) + (() if config.biases else BIASES)
    for kind in left_out:
        keep &= steps.kind != STEP_KINDS.index(kind)
    return keep if config.first else keep & ~(heads & (steps.position == 0))
