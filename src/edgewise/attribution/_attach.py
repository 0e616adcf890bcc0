"""Making a saved graph's run again."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._frozen import frozen_run
from edgewise.attribution._graph import AnyGraph, GraphData
from edgewise.attribution._kinds import AttributionConfig, nodes_of, transcoder_records
from edgewise.attribution._targets import Explained, Target, roots
from edgewise.models import Model
from edgewise.runs import record_of
from edgewise.transcoders import Transcoder


def attached(
    graph: AnyGraph, model: Model, transcoders: Transcoder | Sequence[Transcoder] | None, target: Target
) -> AnyGraph:
    """See `AttributionGraph.attach`."""
    _check_prompt(graph)
    _check_weights(graph, model)
    neurons = graph.settings.get("nodes") == "neurons"
    if neurons != (transcoders is None):
        raise InputError(f"transcoders: the graph has {'neurons; give none' if neurons else 'features; give its own'}")
    config = AttributionConfig.of(graph.settings) if neurons else AttributionConfig()  # it says which neurons
    run = frozen_run(model, graph.ids.to(model.device), graph.weight.dtype)
    nodes = nodes_of(run, "neurons" if transcoders is None else transcoders, config)
    expected = graph.provenance.get("transcoders", [])
    for before, now in zip(expected, found := transcoder_records(nodes), strict=False):
        if before != now:
            raise InputError(f"transcoder of {now['reads']}: not the one that the graph was made with; give that one")
    if len(found) != len(expected):
        raise InputError(f"transcoders: {len(found)}; the graph has {len(expected)}: give those")
    explained = roots(nodes, _target(graph, target), bool(graph.settings.get("contrast")))
    values = graph.nodes.value[graph.nodes.is_kind("root")]
    again = torch.tensor([each.value for each in explained]).to(values)
    size = float(graph.ledger.size[graph.nodes.is_kind("root")].max())  # of what a value near 0 is a sum of
    if not torch.allclose(again, values, rtol=1e-3, atol=1e-5 * size):
        raise InputError(f"target {explained[0].name!r}: another direction than the graph's; give that one")
    return replace(graph, explained=Explained(nodes, explained))


def _target(graph: GraphData, given: Target) -> Target:
    """What the graph explains; a direction must be given again, and be the same."""
    known = graph.settings.get("target")
    if not isinstance(known, dict):
        return known
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Tensor)):
        raise InputError(f"target: the graph explains the direction {known['direction']!r}; give (name, direction)")
    return given


def _check_prompt(graph: GraphData) -> None:
    """Refuse a graph of no one prompt. Raises `InputError`."""
    if bool((graph.ids < 0).any()):
        raise InputError(
            "graph: a mean over prompts, or of a file without its tokens, so that it has no run; give the graph of one "
            "prompt, as attribute makes it"
        )


def _check_weights(graph: GraphData, model: Model) -> None:
    """Refuse a model of other weights than the graph's. Raises `InputError`."""
    made_with = record_of(graph.provenance, "model")
    if model.identity["weights_hash"] != made_with.get("weights_hash"):
        raise InputError(
            f"model: its weights {model.identity['weights_hash'][:12]} are not the graph's, "
            f"{str(made_with.get('weights_hash'))[:12]}; give {made_with.get('id', 'its model')}"
        )


def explained_of(graph: GraphData) -> Explained:
    """What a graph was made from. Raises `InputError` for one that was read from a file and not attached, that is of no
    one prompt, or whose model has been changed since.
    """
    if graph.explained is None:
        _check_prompt(graph)
        raise InputError("graph: its run is not at hand; call graph.attach(model), with its transcoders if it has any")
    graph.explained.nodes.run.model.check()
    _check_weights(graph, graph.explained.nodes.run.model)
    return graph.explained
