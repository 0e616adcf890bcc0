"""Every edge of a graph equals autograd's on the frozen model, and a target's edges add up to its value."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgewise import InputError
from edgewise.attribution import AttributionConfig, AttributionGraph, _grow, attribute
from edgewise.attribution._features import Features, by_layer
from edgewise.attribution._frozen import frozen_run
from edgewise.attribution._grow import Growth
from edgewise.attribution._nodes import Neurons, Nodes
from edgewise.attribution._sparse_rows import ALL, SparseRows
from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.transcoders import Activation, Site, Transcoder, TranscoderSpec
from tests.attribution.reference import Frozen
from tests.tiny import CONFIGURATIONS, VOCABULARY, random_model, tiny

EVERYTHING = AttributionConfig(max_nodes=10**6, batch=70, keep=1.0, most_edges=10**6, neurons_per_token=0)
QUIET = RunOptions(progress=False)
N = 6
KINDS = ("relu", "topk:4", "batch_topk:4", "jumprelu")


def prompt(n: int = N, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (n,), generator=torch.Generator().manual_seed(seed))


def transcoder(model: Model, layer: int, kind: str = "relu", read: str = "mlp_in", last: int | None = None, **changes):
    """One with random weights."""
    width = model.parts.d_model
    centred = changes.pop("centred", False)
    writes = tuple(Site("mlp_out", each) for each in range(layer, (layer if last is None else last) + 1))
    spec = TranscoderSpec(width, width, 20, Activation.parse(kind), Site(read, layer, centred), writes, **changes)
    torch.manual_seed(layer)
    made = Transcoder(spec, dtype=torch.float64)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        if len(made.threshold):
            made.threshold.copy_(torch.full_like(made.threshold, 0.1))
    return made


def graph_of(model: Model, nodes: Any = "neurons", config=EVERYTHING, ids=None, **choices) -> AttributionGraph:
    return attribute(model, prompt() if ids is None else ids, nodes, config=config, options=QUIET, **choices)


def on_meta(nodes: Nodes) -> Iterator[torch.Tensor]:
    """What its nodes are made of, where anything of no stated device would lie on another."""
    with torch.device("meta"):
        for active in nodes.active:
            yield from active


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_layers_without_nodes_lie_where_the_run_does(name: str) -> None:
    model = tiny(name)
    run = frozen_run(model, prompt())
    kinds = [Neurons(run)] if name == "mixtral" else [Features(run, by_layer(model, transcoder(model, 1)))]
    for nodes in kinds:
        assert {each.device.type for each in on_meta(nodes)} == {"cpu"}


def test_rows_are_numbered_where_the_run_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    growth = Growth(Neurons(frozen_run(tiny("gpt2"), prompt())), [], 4, 4, ALL)
    growth.nodes.run = replace(growth.nodes.run, ids=growth.nodes.run.ids.to("meta"))
    given, none = [], torch.zeros(0)
    monkeypatch.setattr(_grow, "rows", lambda *given_: given.extend(given_[2]) or SparseRows(*[none] * 5))
    growth.block(torch.tensor([0, 800]))
    assert [each.row.device.type for each in given] == ["meta"] * 2


def check(model: Model, graph: AttributionGraph, frozen: Frozen) -> None:
    """All rows of a graph against autograd's."""
    assert graph.ledger.worst < 1e-12
    dense = graph.matrix.toarray()
    numbers = {name: i for i, name in enumerate(graph.names)}
    letter = "n" if graph.settings["nodes"] == "neurons" else "f"
    token = int(graph.ids.new_tensor([numbers["token@0"]]))
    assert graph.nodes.index[token] == graph.ids[0]
    with torch.no_grad():
        logits = model.module(input_ids=graph.ids[None]).logits[0, -1]
    rows = [row for row in range(graph.n_nodes) if dense[row].any()]
    inner = [row for row in rows if "@" in graph.names[row]]
    experts = all(layer.mlp.down is None for layer in model.parts.layers)  # whose neurons are no nodes
    assert (len(inner) > 12) != experts
    for row in [*(row for row in rows if row not in inner), *inner[:: max(1, len(inner) // 12)]]:
        name = graph.names[row]
        if "@" not in name:  # a root
            here = frozen.unembed(frozen.final[-1:])[0]
            vocabulary = len(here)
            index = int(name)
            target = here[index] - here.mean()
            torch.testing.assert_close(graph.nodes.value[row].item(), (logits[index] - logits.mean()).item())
            assert len(logits) == vocabulary
        else:
            layer, rest = name[1:].split(".")
            index, position = rest[1:].split("@")
            assert rest[0] == letter
            target = frozen.values[int(layer)][int(position), int(index)]
            torch.testing.assert_close(graph.nodes.value[row].item(), target.item())
        tokens, nodes, errors = frozen.edges(target)
        edges: dict[str, float] = {}
        for term, kind in zip(tokens, ("token", "position"), strict=False):
            edges |= {f"{kind}@{position}": edge for position, edge in enumerate(term.tolist())}
        for layer, (written, error) in enumerate(zip(nodes, errors, strict=True)):
            edges |= {f"m{layer}.error@{position}": edge for position, edge in enumerate(error.tolist())}
            if written is not None:
                places, values = written.nonzero().tolist(), written[written != 0].tolist()
                names = (f"m{layer}.{letter}{unit}@{position}" for position, unit in places)
                edges |= dict(zip(names, values, strict=True))
        found, expected = dense[row, [numbers[source] for source in edges]], np.array([*edges.values()])
        assert (np.abs(found - expected) <= np.maximum(1e-9 * np.abs(expected), 1e-11)).all(), name


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name != "gemma2"])
def test_neuron_rows_are_autograds(name: str) -> None:
    model = tiny(name)
    check(model, graph_of(model), Frozen(model, prompt(), None))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_ledger_closes_in_single_precision_too(name: str) -> None:
    assert graph_of(tiny(name, torch.float32)).ledger.worst < 2e-4  # on models of real weights some 1e-6


def test_a_model_that_is_not_finite_has_no_graph() -> None:
    model = random_model("gpt2")
    with torch.no_grad():
        next(model.module.parameters())[prompt()[0]] = torch.nan
    with pytest.raises(InputError, match="^prompt: the model gives numbers that are not finite on it"):
        graph_of(model)


@pytest.mark.parametrize("gate", ["gate", "up"])
def test_other_shares_of_a_gated_product(gate) -> None:
    model = tiny("llama-gqa")
    config = AttributionConfig(10**6, 70, 1.0, 10**6, 0, gate)
    check(model, graph_of(model, config=config), Frozen(model, prompt(), None, gate))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel", "twisted"])
def test_feature_rows_are_autograds(name: str, kind: str) -> None:
    model = tiny(name)
    sets = [transcoder(model, layer, kind) for layer in range(len(model.parts.layers))]
    frozen = Frozen(model, prompt(), {each.spec.reads.layer: each for each in sets})
    check(model, graph_of(model, sets), frozen)


@pytest.mark.parametrize("read", ["mlp_in", "mlp_normalized", "resid_mid"])
@pytest.mark.parametrize("changes", [{"skip": True}, {"input_bias": True, "exclude_special": True, "skip": True}])
def test_sites_skips_and_input_biases(read: str, changes) -> None:
    model = tiny("gpt2")
    sets = [transcoder(model, layer, read=read, centred=layer == 1, **changes) for layer in (0, 1)]
    frozen = Frozen(model, prompt(), {each.spec.reads.layer: each for each in sets})
    check(model, graph_of(model, sets), frozen)


@pytest.mark.parametrize("name", ["gpt2", "neox-parallel", "gemma3"])
def test_cross_layer_features(name: str) -> None:
    model = tiny(name)
    last = len(model.parts.layers) - 1
    sets = [transcoder(model, layer, last=last) for layer in range(last + 1)]
    frozen = Frozen(model, prompt(), {each.spec.reads.layer: each for each in sets})
    check(model, graph_of(model, sets), frozen)
