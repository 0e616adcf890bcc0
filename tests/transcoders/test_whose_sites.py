"""Transcoders whose sites a model does not have are refused wherever they are taken, and so is one that writes to later
layers alone.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise import Engine, InputError
from edgewise.attribution import Edit, editing, greedy_paths, intervene
from edgewise.models import Model
from edgewise.transcoders import Replacement, Site, TokenRows, Transcoder, capture, evaluate_transcoders
from edgewise.transcoders.analysis import describe, on_prompt, reader, virtual_weights
from edgewise.transcoders.dashboards import make_dashboards
from tests.attribution.test_rows import graph_of, prompt, transcoder
from tests.tiny import tiny

ROWS = TokenRows(torch.stack([prompt(), prompt(seed=1)]), {"text": "random"})
EDITS = [Edit("m0.f1@5")]

TAKEN: dict[str, Callable[[Model, Transcoder, Transcoder], Any]] = {
    "attribute": lambda m, t, _: graph_of(m, t),
    "intervene": lambda m, t, _: intervene(m, prompt(), EDITS, t),
    "editing": lambda m, t, _: editing(m, EDITS, t).__enter__(),
    "paths": lambda m, t, _: greedy_paths(m, prompt(), t, 1),
    "engine": lambda m, t, _: Engine(m, m.graph(features={0: [1, 2]}), transcoders=[t]),
    "replacement": lambda m, t, _: Replacement(m, t),
    "judging": lambda m, t, _: evaluate_transcoders(m, [t], ROWS),
    "reader": lambda m, t, _: reader(m, t),
    "describe": lambda m, t, _: describe(m, [t], 0, 1),
    "describe another": lambda m, t, other: describe(m, [t, other], 1, 1),
    "on a prompt": lambda m, t, _: on_prompt(m, [t], prompt()),
    "virtual weights": lambda m, t, other: virtual_weights(m, [t, other], ROWS),
    "dashboards": lambda m, t, _: make_dashboards(m, [t], ROWS),
    "dashboards of another": lambda m, t, other: make_dashboards(m, [other], ROWS, others=[t]),
}
"""Everything that takes a transcoder of layer 0, some of it with one of layer 1."""


@pytest.mark.parametrize("read", ["mlp_in", "mlp_normalized", "resid_mid"])
@pytest.mark.parametrize("taken", TAKEN)
def test_granite_has_no_sites(taken: str, read: str):
    model = tiny("granite")  # the engine's stream is its own divided by a number, so `resid_mid` would be another
    with pytest.raises(InputError, match="transcoders need a torch.nn.Module there"):
        TAKEN[taken](model, *(transcoder(model, layer, read=read) for layer in (0, 1)))
    with pytest.raises(InputError, match="transcoders need a torch.nn.Module there"):
        capture(model, [Site(read, 0)], ROWS.ids)


@pytest.mark.parametrize("taken", TAKEN)
def test_one_that_writes_to_a_later_layer_alone(taken: str):
    model = tiny("gpt2")
    late, other = (transcoder(model, layer) for layer in (0, 1))
    late.spec = replace(late.spec, writes=(Site("mlp_out", 1),))
    with pytest.raises(InputError, match=r"layer 0 mlp_in: it writes to layer 1 mlp_out first; .* write there"):
        TAKEN[taken](model, late, other)
