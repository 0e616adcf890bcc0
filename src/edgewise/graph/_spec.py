"""What decides which writers, readers and edges a model has."""

from dataclasses import asdict, dataclass, replace
from operator import index
from typing import Any, Literal, get_args

from edgewise._errors import InputError

Embeddings = Literal["joint", "split", "off"]
"""Which writers the embeddings are, see `GraphSpec`."""
KeyValue = Literal["physical", "expanded"]
"""What reads keys and values, see `GraphSpec`."""

EMBED = 0
"""Kind of writer, as in `Graph.writer_kind`: an embedding."""
HEAD = 1
"""Kind of writer: an attention head."""
MLP = 2
"""Kind of writer: an MLP."""
FEATURE = 3
"""Kind of writer: a transcoder's feature."""
ERROR = 4
"""Kind of writer: what a transcoder's features leave of an MLP's output."""
NEURON = 5
"""Kind of writer: an MLP's neuron, or a group of them."""
QUERY = 0
"""Kind of reader, as in `Graph.reader_kind`: a head's queries."""
KEY = 1
"""Kind of reader: a head's keys."""
VALUE = 2
"""Kind of reader: a head's values."""
MLP_IN = 3
"""Kind of reader: an MLP."""
LOGITS = 4
"""Kind of reader: the final norm, before the logits."""
FEATURE_IN = 5
"""Kind of reader: a transcoder's feature."""
NEURON_IN = 6
"""Kind of reader: an MLP's neuron, or a group of them."""
Role = Literal["query", "key", "value", "mlp", "logits", "feature", "neuron"]
"""A kind of reader by name."""
ROLES: tuple[Role, ...] = get_args(Role)
"""The kinds of reader by name, in the order of their numbers."""
WRITER_KINDS = ("embedding", "head", "mlp", "feature", "error", "neuron")
"""The kinds of writer by name, likewise."""

Features = tuple[tuple[int, tuple[int, ...]], ...]
"""Layers with chosen features of a transcoder in the MLP's place, in order, and which features."""
Neurons = tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]
"""Layers with chosen neurons in the MLP's place, in order, and which groups of neurons (mostly of one each)."""
ErrorPolicy = Literal["scored", "kept", "corrupted"]
"""What becomes of features' error terms, see `GraphSpec`."""

MOST_EDGES = 1 << 29
"""Of a graph without features: more than the largest models have (126 layers of 128 heads: 4e8), and few enough that a
file which only claims them cannot fill a machine's memory."""

EMBEDDING_NAMES: dict[str, tuple[str, ...]] = {"joint": ("embed",), "split": ("tok_embed", "pos_embed"), "off": ()}
"""The names of the embeddings' writers."""


@dataclass(frozen=True)
class GraphSpec:
    """Everything that decides which edges a model has; two models with equal specs have the same graph."""

    n_layers: int
    n_heads: int
    """Query heads per layer."""
    n_kv_heads: int
    """Key and value heads per layer; fewer than `n_heads` under grouped-query attention."""
    embeddings: Embeddings = "joint"
    """`joint`: one embedding writer; `split`: token and position embeddings apart; `off`: not writers, they reach every
    reader unmasked."""
    kv: KeyValue = "physical"
    """`physical`: one key and one value reader per KV head; `expanded`: one per query head (as EAP-IG and MIB
    count)."""
    parallel: bool = False
    """Attention and MLP of a layer read the same residual stream (GPT-NeoX), so the MLP does not read its own layer's
    heads."""
    spans: tuple[str, ...] = ()
    """Names of the position groups, where edges carry positions: each group then has all edges for itself."""
    features: Features = ()
    """Layers whose MLP is taken apart, and into which features of its transcoder. What these features do not explain
    of the MLP's output is the layer's error term, a writer without a reader."""
    coupled_heads: bool = False
    """What a layer's heads write is normed as one sum (Gemma's norm after attention), so no head of a layer can change
    without changing all of them; see `Graph.prune`."""
    neurons: Neurons = ()
    """Layers whose MLP is taken apart into neurons, or groups of them, each a reader and a writer; all other neurons of
    the layer stay together as `rest`."""
    cross_layer: Features = ()
    """Layers whose features write to later layers too, and to which. There such a feature has a further writer, a
    *place*, of its own; all places follow the one reader."""
    error: ErrorPolicy = "scored"
    """Error terms of features are writers with edges (`scored`), or have none: they then write their clean value to
    every later reader, whatever the circuit (`kept`), or their ablated value (`corrupted`)."""

    def __post_init__(self) -> None:
        """Check the sizes. Raises `InputError` for a spec that describes no model."""
        for name in ("n_layers", "n_heads", "n_kv_heads"):
            if type(number := getattr(self, name)) is not int or number < 1:
                raise InputError(f"graph: {name}={number!r:.40}; layers and heads must be positive whole numbers")
        n_keys = self.n_kv_heads if self.kv == "physical" else self.n_heads
        if self.n_layers**2 * (self.n_heads + 1) * (self.n_heads + 2 * n_keys + 1) > 2 * MOST_EDGES:
            raise InputError(
                f"graph: {self.n_layers!r:.20} layers of {self.n_heads!r:.20} heads would have more than "
                f"{MOST_EDGES:,} edges; there is no such model"
            )
        for name in ("parallel", "coupled_heads"):
            if type(getattr(self, name)) is not bool:
                raise InputError(f"graph: {name}={getattr(self, name)!r:.40}; give true or false")
        if self.n_heads % self.n_kv_heads:
            raise InputError(f"graph: {self.n_heads} query heads cannot share {self.n_kv_heads} KV heads evenly")
        if self.embeddings not in EMBEDDING_NAMES:
            raise InputError(f"graph: embeddings={self.embeddings!r}; choose one of joint, split, off")
        if self.kv not in get_args(KeyValue):
            raise InputError(f"graph: kv={self.kv!r}; choose physical or expanded")
        if isinstance(self.spans, str):
            raise InputError(f"graph: spans={self.spans!r:.60}; give a list of names")
        object.__setattr__(self, "spans", tuple(self.spans))
        if len(set(self.spans)) != len(self.spans) or not all(isinstance(name, str) for name in self.spans):
            raise InputError(f"graph: spans={self.spans}; give names that differ")
        set_ = object.__setattr__
        set_(self, "features", _checked_features(self.features, self.n_layers))
        set_(self, "neurons", _checked_neurons(self.neurons, self.n_layers))
        set_(self, "cross_layer", _checked_features(self.cross_layer, self.n_layers))
        self._check_nodes()

    def _check_nodes(self) -> None:
        """Whether features, neurons, places and errors go together. Raises `InputError`."""
        featured = dict(self.features)
        if both := sorted(featured.keys() & dict(self.neurons).keys()):
            raise InputError(f"graph: layer {both[0]} has features and neurons; give one of them")
        for source, targets in self.cross_layer:
            if source not in featured or not targets or targets[0] <= source:
                raise InputError(
                    f"graph: cross_layer: features of layer {source} write to layers {list(targets)}; give a layer "
                    "with features, and layers after it"
                )
            if plain := [layer for layer in targets if layer not in featured]:
                raise InputError(
                    f"graph: features of layer {source} write to layer {plain[0]}, which must be taken apart too; "
                    f"give it in features, if only as {plain[0]}: ()"
                )
        if self.error not in get_args(ErrorPolicy):
            raise InputError(f"graph: error={self.error!r}; choose {', '.join(get_args(ErrorPolicy))}")
        if self.error != "scored" and not self.features:
            raise InputError(f"graph: error={self.error!r}: there are no features, whose error terms it is about")

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "GraphSpec":
        """The inverse of `to_dict`, also for values that JSON has made lists of.

        Raises:
            InputError: they describe no model.
            TypeError: a name is unknown or missing.
        """
        return GraphSpec(**{name: _tuples(value) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain values, for a file's header."""
        # Left out where a file of version 0.1 would not have them.
        plain = {"spans": (), "features": (), "coupled_heads": False, "neurons": (), "cross_layer": ()}
        plain |= {"error": "scored"}
        return {name: value for name, value in asdict(self).items() if name not in plain or value != plain[name]}

    def differences(self, other: "GraphSpec") -> str:
        """In what it differs from another spec, as in `n_layers 2, not 3; embeddings split, not joint`."""
        each = ((name, getattr(self, name), getattr(other, name)) for name in asdict(self))
        shown = (f"{name} {_short(mine)}, not {_short(its)}" for name, mine, its in each if mine != its)
        return "; ".join(shown)

    def features_of(self, layer: int) -> tuple[int, ...] | None:
        """A layer's features; None for a layer with an MLP."""
        return dict(self.features).get(layer)

    def neurons_of(self, layer: int) -> tuple[tuple[int, ...], ...] | None:
        """A layer's groups of neurons; None for a layer whose neurons are not taken apart."""
        return dict(self.neurons).get(layer)

    @property
    def whole(self) -> "GraphSpec":
        """The spec of the same graph with every MLP whole."""
        return replace(self, features=(), neurons=(), cross_layer=(), error="scored")

    @property
    def apart(self) -> str:
        """What MLPs are taken apart into, in words; empty if none is."""
        return " and ".join(name for name in ("features", "neurons") if getattr(self, name))

    def places_at(self, layer: int) -> list[tuple[int, int]]:
        """The features of earlier layers that write to a layer too: their layers and numbers, in order."""
        sources = [source for source, targets in self.cross_layer if layer in targets]
        return [(source, feature) for source in sources for feature in self.features_of(source) or ()]


def _short(value: Any) -> str:
    text = (
        ", ".join(value) or "none"
        if isinstance(value, tuple) and all(isinstance(x, str) for x in value)
        else str(value)
    )
    return text if len(text) <= 60 else f"{text[:59]}…"


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _checked_features(features: Features, n_layers: int) -> Features:
    """In order of the layers, each layer's features ascending. Raises `InputError`."""
    try:
        found = sorted((index(layer), tuple(sorted(map(index, chosen)))) for layer, chosen in features)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"graph: features={features!r:.60}; give pairs of a layer and its features' numbers"
        ) from error
    for number, (layer, chosen) in enumerate(found):
        if not 0 <= layer < n_layers or (number and found[number - 1][0] == layer):
            raise InputError(f"graph: features of layer {layer}; name each of the layers 0 to {n_layers - 1} once")
        if (chosen and chosen[0] < 0) or len(set(chosen)) < len(chosen):
            raise InputError(f"graph: features of layer {layer}: give numbers from 0 on, each once")
    return tuple(found)


def _checked_neurons(neurons: Any, n_layers: int) -> Neurons:
    """In order of the layers, each layer's groups ascending. Raises `InputError`."""
    found = []
    try:
        for layer, groups in neurons:
            found.append((index(layer), tuple(sorted(tuple(sorted(map(index, each))) for each in groups))))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"graph: neurons={neurons!r:.60}; give pairs of a layer and its groups of neurons' numbers"
        ) from error
    found.sort()
    for number, (layer, groups) in enumerate(found):
        every = [neuron for group in groups for neuron in group]
        if not 0 <= layer < n_layers or (number and found[number - 1][0] == layer):
            raise InputError(f"graph: neurons of layer {layer}; name each of the layers 0 to {n_layers - 1} once")
        if min(every, default=0) < 0 or len(set(every)) < len(every) or not all(groups):
            raise InputError(f"graph: neurons of layer {layer}: give numbers from 0 on, each once, in groups of some")
    return tuple(found)
