"""What writers and readers are called, and what that leaves open."""

from collections.abc import Hashable

from edgewise.graph._spec import EMBEDDING_NAMES, GraphSpec


def writer_names(spec: GraphSpec) -> list[str]:
    """The writers' names in order, see `Graph.writer_names`."""
    names = list(EMBEDDING_NAMES[spec.embeddings])
    for layer in range(spec.n_layers):
        names += [f"a{layer}.h{head}" for head in range(spec.n_heads)] + _mlp_names(spec, layer)
        names += [f"m{source}.f{feature}>{layer}" for source, feature in spec.places_at(layer)]
        names += [f"m{layer}.error"] * (spec.features_of(layer) is not None and spec.error == "scored")
    return names


def reader_names(spec: GraphSpec, n_keys: int) -> list[str]:
    """The readers' names in order, see `Graph.reader_names`, where a layer has so many key readers."""
    shared = "h" if n_keys == spec.n_heads else "kv"
    names = []
    for layer in range(spec.n_layers):
        names += [f"a{layer}.h{head}.q" for head in range(spec.n_heads)]
        names += [f"a{layer}.{shared}{head}.{kind}" for kind in "kv" for head in range(n_keys)]
        names += _mlp_names(spec, layer)
    return [*names, "logits"]


def _mlp_names(spec: GraphSpec, layer: int) -> list[str]:
    """Of a layer's MLP, or of its features, or of its neurons and the rest."""
    features, neurons = spec.features_of(layer), spec.neurons_of(layer)
    if neurons is not None:
        return [*(f"m{layer}.{group_name(group)}" for group in neurons), f"m{layer}.rest"]
    return [f"m{layer}"] if features is None else [f"m{layer}.f{feature}" for feature in features]


def group_name(neurons: tuple[int, ...]) -> str:
    """Of a group of neurons: its first, and how many more."""
    return f"n{neurons[0]}" + (f"+{len(neurons) - 1}" if len(neurons) > 1 else "")


def stands_for(spec: GraphSpec) -> dict[str, Hashable]:
    """What a node's name leaves open, by name: of an error term the features that it is left by, of the rest of an MLP
    the neurons likewise, of a group of neurons all of them. Nodes of two graphs of one model, with the same
    transcoders, are one thing where their names and this agree.
    """
    found: dict[str, Hashable] = {f"m{layer}.error": (own, *spec.places_at(layer)) for layer, own in spec.features}
    for layer, groups in spec.neurons:
        found[f"m{layer}.rest"] = frozenset(neuron for group in groups for neuron in group)
        found |= {f"m{layer}.{group_name(group)}": group for group in groups if len(group) > 1}
    return found
