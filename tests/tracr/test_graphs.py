"""Attribution graphs of the programs that ship, held against their true circuits."""

import json

import pytest

import edgewise as ew
from edgewise import InputError
from edgewise.models import load
from edgewise.tracr import GraphRecovery, compare_graphs, find_truth
from tests.tiny import tiny


def recovery_of(name: str, inputs: int) -> GraphRecovery:
    model = load(f"tracr:{name}")
    truths = [find_truth(ew.Engine(model, model.graph(), ew.Ablation(kind))) for kind in ("interchange", "zero")]
    return compare_graphs(model, truths, shares=(0.95,), most_inputs=inputs)


def test_reverse_needs_reasons_under_zero_ablation() -> None:
    found = recovery_of("reverse", 3)
    assert (found.components, found.inputs) == (8, 3) and found.residual < 1e-5 and found.reasons > 0
    rows = {(row.ablation, row.reasons): row for row in found.rows}
    moving = rows["interchange", False]
    assert moving.true == moving.found == ("a3.h0",) and (moving.precision, moving.recall) == (1, 1)
    assert moving.random == (1 / 8, 1 / 8)
    alone, reasons = rows["zero", False], rows["zero", True]
    assert reasons.true == ("a0.h0", "a3.h0", "m0", "m1", "m2")
    assert alone.recall == 1 / 5 and alone.missing == ("a0.h0", "m0", "m1", "m2")
    assert reasons.recall > alone.recall and set(alone.found) <= set(reasons.found)


def test_a_program_that_gives_a_number() -> None:
    found = recovery_of("xproportion", 3)
    assert found.residual < 1e-5
    for row in found.rows:
        assert row.true == ("a1.h0", "m0") and row.recall == 1
    assert json.loads(found.to_json())["rows"][0]["true"] == ["a1.h0", "m0"]


def test_what_is_refused() -> None:
    model = load("tracr:xproportion")
    other = load("tracr:reverse")
    truth = find_truth(ew.Engine(other, other.graph(), ew.Ablation("interchange")))
    with pytest.raises(InputError, match="a truth of 'reverse' for the program 'xproportion'"):
        compare_graphs(model, [truth])
    with pytest.raises(InputError, match="not a compiled program"):
        compare_graphs(tiny("gpt2"), [])
