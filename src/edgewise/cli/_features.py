"""Circuits of transcoder features, for the commands that find and judge circuits."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from edgewise._errors import InputError
from edgewise.circuit import Circuit

METHODS = ("ranking", "edge-pruning", "node-pruning", "random", "eap", "mask-ig")
"""Those that run graphs with features."""

Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--transcoders",
        help="Take MLPs apart into features: a transcoder's file, a folder of them, or a hub id; several times.",
    ),
]


def check(sources: list[str] | None, per_layer: int, method: str, of: str, ablation: str) -> None:
    """Refuse what does not go with features, before anything is loaded. Raises `InputError`."""
    if not sources:
        return
    methods = of.split(",") if method == "ensemble" else [method]
    if unable := [each for each in methods if each not in METHODS]:
        raise InputError(f"--transcoders: {unable[0]} does not run features; choose {', '.join(METHODS)}")
    if ablation not in ("interchange", "zero"):
        raise InputError(f"--transcoders: features take --ablation interchange or zero, not {ablation}")
    if per_layer < 0:
        raise InputError(f"--features-per-layer {per_layer}: use at least 0")


def read(sources: Sequence[str] | None) -> list[Any]:
    """The transcoders at these places."""
    from edgewise.transcoders.formats import read as read_transcoders

    return [each for source in sources or () for each in read_transcoders(source)]


def choose(model: Any, task: Any, transcoders: list[Any], per_layer: int, ablation: str) -> dict[int, Any]:
    """Each transcoder's features of largest effect; none without transcoders."""
    import edgewise as ew

    if not transcoders:
        return {}
    kind = ew.Ablation(ablation)  # pyright: ignore[reportArgumentType] (checked before)
    return ew.choose_features(model, task, transcoders, per_layer, ablation=kind)


def for_circuit(circuit: Circuit, sources: list[str] | None) -> list[Any]:
    """The transcoders for a circuit's graph. Raises `InputError` where it has features and none are given."""
    features = circuit.graph.spec.features
    if features and not sources:
        layers = ", ".join(str(layer) for layer, _ in features)
        raise InputError(f"circuit: it has features of layers {layers}; give their transcoders with --transcoders")
    if sources and not features:
        raise InputError("--transcoders: the circuit has no features; leave them out")
    return read(sources)
