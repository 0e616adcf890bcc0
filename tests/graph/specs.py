"""Shapes of every kind, small enough to walk all paths of; and what each reader feeds."""

import dataclasses
import itertools

from edgewise.graph import GraphSpec

SMALL = [
    GraphSpec(layers, heads, kv_heads, embeddings, kv, parallel)
    for layers, (heads, kv_heads), embeddings, kv, parallel in itertools.product(
        (1, 3), ((1, 1), (3, 3), (4, 2), (3, 1)), ("joint", "split", "off"), ("physical", "expanded"), (False, True)
    )
    if kv == "physical" or heads != kv_heads  # they are the same graph otherwise
]
FEATURED = [
    GraphSpec(1, 3, 3, features=((0, (2, 9)),)),
    GraphSpec(3, 4, 2, features=((0, (5,)), (2, (0, 3, 4)))),
    GraphSpec(3, 3, 1, "split", features=((1, ()),)),
    GraphSpec(3, 3, 1, "off", "expanded", True, features=((0, (1, 2)), (1, ()), (2, (7,)))),
    GraphSpec(3, 4, 2, parallel=True, features=((1, (0, 1)),)),
]
"""With transcoder features in MLPs' places; a layer may have an error term alone."""
SMALL += FEATURED
_CROSS = {"features": ((0, (1, 3)), (1, (2,)), (2, ())), "cross_layer": ((0, (1, 2)), (1, (2,)))}
APART = [
    GraphSpec(1, 3, 3, neurons=((0, ((2,), (9,))),)),
    GraphSpec(3, 4, 2, neurons=((0, ((5,),)), (2, ((0,), (3, 4))))),
    GraphSpec(3, 3, 1, "split", features=((2, (1,)),), neurons=((1, ()),)),
    GraphSpec(3, 3, 1, "off", "expanded", True, neurons=((0, ((1,), (2,))), (2, ((7, 8),)))),
    GraphSpec(3, 4, 2, **_CROSS),
    GraphSpec(3, 3, 3, "split", parallel=True, features=((0, (4, 6)), (2, (1,))), cross_layer=((0, (2,)),)),
    GraphSpec(3, 4, 2, features=((0, (5,)), (2, (0, 3))), error="kept"),
    GraphSpec(3, 3, 1, "off", features=((1, (0, 3)),), error="kept"),
    GraphSpec(3, 4, 2, **_CROSS, error="kept"),
    GraphSpec(3, 3, 1, features=((0, (5,)), (1, ())), error="corrupted"),
]
"""With neurons in MLPs' places, features that write to later layers, and error terms that are no writers."""
SMALL += APART
COUPLED = [
    dataclasses.replace(spec, coupled_heads=True)
    for spec in SMALL
    if spec.n_layers == 3 and spec.n_heads > 1 and spec.kv == "physical" and not spec.parallel
]
"""A norm after attention makes each layer's heads one unit."""
SMALL += COUPLED


def spec_id(spec: GraphSpec) -> str:
    order = "parallel" if spec.parallel else "sequential"
    features = "".join(f"-{layer}:{len(chosen)}" for layer, chosen in spec.features)
    features += "".join(f"-n{layer}:{len(chosen)}" for layer, chosen in spec.neurons)
    features += "-cross" * bool(spec.cross_layer) + f"-{spec.error}" * (spec.error != "scored")
    coupled = "-coupled" if spec.coupled_heads else ""
    return f"{spec.n_layers}x{spec.n_heads}:{spec.n_kv_heads}-{spec.embeddings}-{spec.kv}-{order}{features}{coupled}"


def fed_by(spec: GraphSpec, reader: str) -> list[str]:
    """The writers that a reader's component writes as."""
    if reader == "logits":
        return []
    if reader.startswith("m"):
        own = int(reader[1:].partition(".")[0])
        later = dict(spec.cross_layer).get(own, ()) if ".f" in reader else ()
        return [reader, *(f"{reader}>{layer}" for layer in later)]
    layer, key, _ = reader.split(".")
    if key.startswith("h"):
        return [f"{layer}.{key}"]
    group = spec.n_heads // spec.n_kv_heads
    first = int(key[2:]) * group
    return [f"{layer}.h{head}" for head in range(first, first + group)]
