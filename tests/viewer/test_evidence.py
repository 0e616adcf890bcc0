"""Evidence: effects are those of exact patching, predictions those of model and circuit; the page says both."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise import InputError
from edgewise.discovery import eap, exact_patching
from edgewise.viewer import Evidence, Viewed, gather
from tests.discovery.toys import random_task, toy_engine


@pytest.fixture(scope="module")
def found() -> tuple[Any, Any, Any, Evidence]:
    engine, task = toy_engine(), random_task()
    circuit = eap(engine, task).at(0.5, actual=True, absolute=True)
    return engine, task, circuit, gather(engine, circuit, task, 7, examples=[2, 0])


def test_effects_are_those_of_exact_patching(found: tuple[Any, Any, Any, Evidence]):
    engine, task, circuit, evidence = found
    exact = exact_patching(engine, replace(task, metric=task.explained), split="test", pairs=4)
    assert evidence.effects == pytest.approx(exact.values[list(evidence.edges)].tolist(), abs=1e-6)
    assert len(evidence.edges) == 7 and circuit.actual[list(evidence.edges)].all()
    sizes = circuit.scores.abs()[list(evidence.edges)]
    assert (sizes.diff() <= 0).all() and sizes.min() >= circuit.scores.abs()[circuit.actual].topk(7).values.min()


def test_predictions_are_the_models_and_the_circuits(found: tuple[Any, Any, Any, Evidence]):
    engine, task, circuit, evidence = found
    assert [each.number for each in evidence.predictions] == [2, 0]
    batch = task.batch("test", [0])
    for who, logits in (("model", engine.full(batch)), ("circuit", engine.run(batch, circuit.kept.float()))):
        shares = logits[-1].softmax(-1)
        said = getattr(evidence.predictions[1], who)
        assert [share for _, share in said] == pytest.approx(torch.topk(shares, 5).values.tolist(), abs=1e-6)
    assert len(evidence.predictions[1].clean) == len(task.test[0].clean)


def test_it_is_saved_and_read_again(found: tuple[Any, Any, Any, Evidence], tmp_path: Path):
    found[3].save(tmp_path / "evidence.json")
    assert Evidence.load(tmp_path / "evidence.json") == found[3]
    (tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(InputError, match="not what `edgewise view --evidence` wrote"):
        Evidence.load(tmp_path / "wrong.json")


def test_the_page_says_both(found: tuple[Any, Any, Any, Evidence], open_page: Callable[..., Any]):
    _, _, circuit, evidence = found
    tab = open_page(Viewed(circuit, "toy", evidence=evidence))
    text = tab.locator(".panel").inner_text()
    assert f"Largest exact effects (on {evidence.metric})" in text
    most = max(range(7), key=lambda i: abs(evidence.effects[i]))
    name = circuit.graph.edge_name(evidence.edges[most]).replace("->", "→")
    tab.locator(".panel .rows").nth(1).locator(".row").first.click()
    text = tab.locator(".panel").inner_text()
    assert text.startswith(name) and "mean of 4 pairs" in text
    tab.get_by_role("button", name="Examples").click()
    section = tab.get_by_label("Example 0", exact=True)
    shares = [f"{100 * share:.1f} %" for _, share in evidence.predictions[1].circuit]
    assert all(each in section.inner_text() for each in shares)
