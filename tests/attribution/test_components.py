"""The heads and MLPs that a graph uses, and those that say where its heads look."""

import signal
from dataclasses import replace

import pytest
import torch

from edgewise import InputError
from edgewise.attribution import AttributionConfig, components_of
from edgewise.attribution._frozen import frozen_run
from edgewise.attribution._grow import Growth
from edgewise.attribution._nodes import Neurons
from edgewise.attribution._query_key import Contrast
from edgewise.attribution._rows import Columns, rows
from edgewise.models import load
from tests.attribution.test_rows import graph_of, prompt
from tests.attribution.test_why import contrasts, plain_scores
from tests.tiny import CONFIGURATIONS, tiny

FEW = AttributionConfig(10**6, 70, 1.0, 10**6, 5)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_against_all_keys_evenly(name: str) -> None:
    nodes = Neurons(frozen_run(tiny(name), prompt()), per_token=5)
    columns = Columns.of(nodes)
    for other in list(contrasts(nodes))[:3]:
        contrast = Contrast(*(getattr(other, each) for each in ("run", "layer", "head", "query", "key")), evenly=True)
        scores = plain_scores(contrast)[0][: len(contrast.looks)]  # a sink's comes last
        expected = scores[contrast.key] - scores[scores.isfinite()].mean()
        assert contrast.value == pytest.approx(float(expected), rel=1e-8, abs=1e-9)
        sides = rows(nodes, columns, contrast.targets(), 2).total
        assert sides.tolist() == pytest.approx([contrast.value] * 2, rel=1e-9, abs=1e-9)


def test_a_saturated_head_has_reasons_against_all_keys_alone() -> None:
    model = load("tracr:reverse")
    nodes = Neurons(frozen_run(model, torch.tensor(model.tokenizer([1, 2, 3]))))
    looks = nodes.run.layers[3].pattern.first(4)[0, 3]
    key = int(looks.argmax())
    assert looks[key] > 1 - 1e-6
    assert abs(Contrast(nodes.run, 3, 0, 3, key).value) < 1e-4
    assert Contrast(nodes.run, 3, 0, 3, key, evenly=True).value > 10


def test_nearly_all_influence_uses_everything() -> None:
    model = tiny("llama-gqa")
    found = components_of(graph_of(model, config=FEW, target=3), 1 - 1e-9, reasons=False)
    layers, heads = range(len(model.parts.layers)), range(model.parts.n_heads)
    assert found.all == {f"m{i}" for i in layers} | {f"a{i}.h{j}" for i in layers for j in heads}
    assert not found.looking and found.n_graphs == 0


def test_reasons_add_components_and_a_larger_share_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewise.attribution._components.MOST_PAIRS", 1)
    graph = graph_of(tiny("gpt2"), config=FEW, target=3)
    few, more = (components_of(graph, share, reasons=False) for share in (0.5, 0.95))
    assert few.all < more.all
    few, found = (components_of(graph, 0.99, reasons=reasons) for reasons in (False, True))
    assert found.moving == few.moving and found.n_graphs > 0 and found.residual < 1e-10
    assert not set(found.looking) & set(found.moving)


def test_what_queries_alone_read_is_found_by_reasons_alone() -> None:
    model = load("tracr:reverse")  # its first three layers say where the last one's head looks
    graph = graph_of(model, config=AttributionConfig(), ids=torch.tensor(model.tokenizer([1, 2, 3])), target=0)
    found = components_of(graph, 0.95)
    assert found.moving == ("a3.h0",)
    assert {"m0", "m1", "m2"} <= set(found.looking)


def test_of_a_graph_whose_settings_say_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an earlier version wrote them."""
    monkeypatch.setattr("edgewise.attribution._components.MOST_PAIRS", 1)
    graph = graph_of(tiny("gpt2"), config=FEW, target=3)
    old = replace(graph, settings={name: value for name, value in graph.settings.items() if name != "bos"})
    assert components_of(old, 0.5) == components_of(graph, 0.5)


def test_an_interrupt_gives_no_components_of_some_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, begin = graph_of(tiny("gpt2"), config=FEW, target=3), Growth.begin
    monkeypatch.setattr(Growth, "begin", lambda self: (signal.raise_signal(signal.SIGINT), begin(self))[1])
    with pytest.raises(KeyboardInterrupt, match="interrupted after step 1"):
        components_of(graph, 0.99)


@pytest.mark.parametrize("share", [0, 1, 1.5])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(InputError, match="give a number above 0 and below 1"):
        components_of(graph_of(tiny("gpt2"), config=FEW, target=3), share)
