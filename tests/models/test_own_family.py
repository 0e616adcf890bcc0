"""A family that is registered by one call, from one file outside of the library, runs everywhere."""

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import edgewise as ew
from edgewise._errors import InputError
from edgewise.discovery import Scores, method, methods, run_method, uniform_scores
from edgewise.engine import Engine
from edgewise.graph import GraphSpec
from edgewise.models import Model, load, register_family
from edgewise.runs import settings_of
from tests.discovery.toys import quiet, random_task
from tests.engines import assert_close, assert_same, engine, outcome, random_masks
from tests.models import own_family
from tests.models.own_family import TwistedModel, twisted_parts
from tests.tiny import collate, draw_prompts, own_logits, tiny

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def model() -> Model:
    """As a user gets it, checked, in float32."""
    return ew.load_model(tiny("twisted", torch.float32).module)


def test_it_is_one_short_file():
    assert len(inspect.getsource(own_family).splitlines()) <= 120


def test_it_passes_the_check_and_has_a_graph_of_its_own(model: Model):
    assert model.family == "twisted"
    assert model.graph().spec == GraphSpec(3, 4, 2, coupled_heads=True)


def test_what_it_is_told_wrong_is_noticed():
    def without_softcap(module: Any) -> Any:
        parts = twisted_parts(module)
        for layer in parts.layers:
            object.__setattr__(layer.attention, "softcap", None)
        return parts

    register_family("twisted", ["twisted"], without_softcap)
    try:
        with pytest.raises(InputError, match="the engine does not reproduce it"):
            ew.load_model(tiny("twisted", torch.float32).module)
    finally:
        register_family("twisted", ["twisted"], twisted_parts)


def test_a_module_without_a_model_type_goes_by_its_class():
    module = TwistedModel().eval()
    module.config.model_type = None
    with pytest.raises(InputError, match="model: family 'TwistedModel' is not supported"):
        load(module)


@pytest.mark.unchecked
def test_parts_of_another_kind_are_named():
    parts = tiny("twisted").parts
    layer = parts.layers[0]
    norm = replace(layer.mlp, norm=parts.unembed)
    for wrong, said in (
        ("attention", "layers: of type str; give edgewise.models.Layer"),
        (replace(layer, attention=layer.mlp), "layer 0's attention: of type Mlp; give edgewise.models.Attention"),
        (replace(layer, mlp=None), "layer 0's mlp: of type NoneType; give edgewise.models.Mlp"),
        (replace(layer, mlp=norm), "layer 0's norms of mlp: of type function; give edgewise.models.Norm"),
    ):
        with pytest.raises(InputError, match=f"parts: {said}"):
            replace(parts, layers=(wrong,))


@pytest.mark.parametrize("ablation", ["interchange", "zero", "learned"])
def test_the_engine_is_the_reference(ablation: str):
    double, batch = tiny("twisted"), collate(draw_prompts((6, 3, 5)))
    for graph in (double.graph(), double.graph("off", "expanded")):
        fast, reference = (engine(double, graph, ablation, path=path) for path in ("fast", "reference"))
        ones = torch.ones(graph.n_edges, dtype=torch.float64)
        assert_close(reference.run(batch, ones), own_logits(double, draw_prompts((6, 3, 5))))
        for mask in random_masks(graph, seed=4).values():
            assert_same(outcome(fast, batch, mask, gradients="all"), outcome(reference, batch, mask))


# ---------------------------------------------------------------------------------------------------------------- docs


def _code(heading: str) -> str:
    """A section's indented Python."""
    text = PAGE.read_text().split(f"### {heading}\n")[1].split("\n#")[0]
    return "\n".join(line[4:] for line in text.splitlines() if re.match(r"    |$", line))


def test_the_page_shows_the_file_and_its_lines_run(model: Model):
    shown = _code("The function")
    assert shown.strip().endswith(inspect.getsource(own_family).split("def twisted_parts")[1].strip())
    *lines, last = (shown + _code("Register and load")).strip().splitlines()
    names: dict[str, Any] = dict(vars(own_family))
    exec("\n".join(lines), names)
    assert eval(last, names) == model.graph().n_edges


# ------------------------------------------------------------------------------------------------------------- methods

SMALL = {"steps": 3, "batch_size": 3, "points": 2, "threshold": 0.003, "pairs": 2, "sparsity": 0.8}
"""Settings of the methods that have them, for runs of a moment."""


@pytest.mark.parametrize("family", ["twisted", "olmo2", "gemma3"])
@pytest.mark.parametrize("name", methods())
def test_every_method_finds_a_circuit_that_is_the_reference_s(name: str, family: str):
    record, run = method(name), Engine(tiny(family))
    config = record.configure({key: value for key, value in SMALL.items() if key in settings_of(record.config)})
    start = uniform_scores(run.graph) if record.start == "must" else None
    found = run_method(record, run, random_task(3), config, options=quiet(), start=start)
    circuit = found.at(0.8, absolute=True) if isinstance(found, Scores) else found
    assert 0 < circuit.n_edges < run.graph.n_edges and circuit.graph.spec.coupled_heads
    batch, reference = collate(draw_prompts((6, 3, 5))), engine(run.model, path="reference")
    for kept in (circuit.kept, circuit.pruned().kept):
        assert_close(run.run(batch, kept.double()), reference.run(batch, circuit.kept.double()))
