"""Numbers of an evaluation, each against a plain computation."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgewise._errors import InputError
from edgewise.runs import bootstrap
from edgewise.transcoders import Site, TokenRows, capture, modules_of, transcoder_record
from edgewise.transcoders._replacement import substituted
from edgewise.transcoders.judging import evaluate_transcoders
from edgewise.transcoders.judging._recall import blocks_of, recalled, remembered
from tests.tiny import CONFIGURATIONS, refused, tiny
from tests.transcoders.test_replacement import for_model
from tests.transcoders.toys import text, writing

ROWS = text(24)


def loss_with(model, output) -> tuple[float, torch.Tensor]:
    """The next-token loss with one MLP's output changed at all but the first tokens."""
    handle = None
    if output is not None:

        def change(_module, given, out):
            changed = output(given[0], out)
            return torch.cat([out[:, :1], changed[:, 1:]], 1)

        handle = modules_of(model.parts.layers[1])[1].register_forward_hook(change)
    with torch.no_grad():
        log_p = functional.log_softmax(model.module(input_ids=ROWS.ids).logits[:, :-1].float(), -1)
    if handle is not None:
        handle.remove()
    return float(functional.nll_loss(log_p.flatten(0, 1), ROWS.ids[:, 1:].flatten())), log_p


@pytest.fixture(scope="module")
def judged():
    model = tiny("gpt2")
    transcoders = [for_model(model, 1), for_model(model, 1, activation="relu")]
    return model, transcoders, evaluate_transcoders(model, transcoders, ROWS)


def test_losses_and_kl(judged):
    model, transcoders, found = judged
    mean = capture(model, [Site("mlp_out", 1)], ROWS.ids)[Site("mlp_out", 1)][:, 1:].mean((0, 1))
    own, log_p = loss_with(model, None)
    assert found.original.loss == pytest.approx(own, rel=1e-6) and found.original.kl == 0
    assert found.original.added == found.original.low == found.original.high == 0
    assert found.zero[1].loss == pytest.approx(loss_with(model, lambda _x, y: torch.zeros_like(y))[0], rel=1e-5)
    assert found.mean[1].loss == pytest.approx(loss_with(model, lambda _x, y: mean.expand_as(y))[0], rel=1e-5)
    for transcoder, each in zip(transcoders, found.transcoders, strict=True):
        loss, changed = loss_with(model, lambda x, _y, t=transcoder: t(x))
        assert each.replaced is not None and each.replaced.loss == pytest.approx(loss, rel=1e-5)
        assert each.replaced.added == pytest.approx(loss - own, abs=1e-5)
        by_row = (log_p - changed).gather(2, ROWS.ids[:, 1:, None]).squeeze(2).mean(1).double().numpy()
        assert (each.replaced.added, each.replaced.low, each.replaced.high) == pytest.approx(
            tuple(bootstrap(by_row)), abs=1e-5
        )
        kl = float((log_p.exp() * (log_p - changed)).sum(-1).mean())
        assert each.replaced.kl == pytest.approx(kl, rel=1e-4)
        own_rows = -log_p.gather(2, ROWS.ids[:, 1:, None]).squeeze(2).mean(1).double().numpy()
        assert each.replaced.rows == pytest.approx(own_rows + by_row, abs=1e-5)
    assert not found.all  # both are of one layer
    assert found.tokens == ROWS.ids[:, 1:].numel()


def test_one_row_has_no_interval(judged):
    model, transcoders, _ = judged
    found = evaluate_transcoders(model, transcoders[:1], replace(ROWS, ids=ROWS.ids[:1]))
    lost = found.transcoders[0].replaced
    assert lost is not None and lost.added and lost.low is lost.high is None
    assert lost.minus(found.original)[1:] == (None, None)


def test_two_changed_models_are_compared_row_by_row(judged):
    first, second = (each.replaced for each in judged[2].transcoders)
    found = first.minus(second)
    assert found.value == pytest.approx(first.loss - second.loss, abs=1e-12) and found.low < found.value < found.high
    assert found.high - found.low < max(each.high - each.low for each in (first, second))
    assert tuple(first.minus(first)) == (0, 0, 0) and second.minus(first).value == -found.value
    assert "same rows" in refused(lambda: first.minus(replace(second, rows=second.rows[1:])))


def test_sparsity_and_explained_variance(judged):
    model, transcoders, found = judged
    sites = [Site("mlp_in", 1), Site("mlp_out", 1)]
    x, y = (v[:, 1:].flatten(0, 1) for v in capture(model, sites, ROWS.ids).values())
    for transcoder, each in zip(transcoders, found.transcoders, strict=True):
        z = transcoder.encode(x).detach()
        assert each.active == pytest.approx(float((z != 0).sum(1).double().mean()))
        wanted = 1 - (transcoder(x).detach() - y).square().sum() / (y - y.mean(0)).square().sum()
        assert each.explained == pytest.approx(float(wanted))
        frequency = (z != 0).double().mean(0).numpy()
        assert each.live == (frequency > 1e-4).sum()
        with np.errstate(divide="ignore"):
            logs = np.log10(frequency)
        edges = pairwise([-math.inf, -6, -5, -4, -3, -2, -1, math.inf])
        assert each.histogram == tuple(((logs >= a) & (logs < b)).sum() for a, b in edges)
        assert sum(each.histogram) == each.n_features


def test_rows_do_not_depend_on_how_they_are_batched(judged, monkeypatch):
    model, transcoders, found = judged
    from edgewise.transcoders.judging import _judge

    monkeypatch.setattr(_judge, "_TOKENS", 24)
    again = evaluate_transcoders(model, transcoders, ROWS)
    for a, b in zip(again.transcoders, found.transcoders, strict=True):
        assert a.replaced is not None and b.replaced is not None
        assert a.replaced.loss == pytest.approx(b.replaced.loss, rel=1e-9) and a.active == b.active


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_model_run_again_from_a_layer_on_is_the_same(name):
    model = tiny(name)
    if name == "granite":
        with pytest.raises(InputError, match="transcoders need a torch.nn.Module there"):
            blocks_of(model)
        return
    blocks = blocks_of(model)
    if model.parts.layers[0].mlp.norm.kind == "none":
        assert not blocks
        return
    assert len(blocks) == len(model.parts.layers)
    with remembered(blocks) as outputs:
        own = model.module(input_ids=ROWS.ids).logits
    if name.startswith("plain"):  # it calls the parts of its blocks one by one
        assert not outputs
        return
    calls = []
    handle = modules_of(model.parts.layers[0])[1].register_forward_hook(lambda *_: calls.append(1))
    ablated = {1: lambda _residual, given, _mlp: torch.zeros_like(given)}
    with substituted(model, ablated, exclude_special=True):
        whole = model.module(input_ids=ROWS.ids).logits
        assert len(calls) == 1
        with recalled(blocks, outputs[:1]):
            again = model.module(input_ids=ROWS.ids).logits
        assert len(calls) == 1
    handle.remove()
    assert torch.equal(again, whole) and not torch.equal(again, own)
    assert torch.equal(model.module(input_ids=ROWS.ids).logits, own)
    assert not any("forward" in block.__dict__ for block in blocks)


def test_what_does_not_vary_is_not_explained(tmp_path):
    model, rows = tiny("gpt2"), text(2)
    with writing(model, lambda _given, out: torch.full_like(out, 0.3)):
        found = evaluate_transcoders(model, [for_model(model, 0)], rows, alone=False, together=False, ablations=False)
    found.save(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text())["transcoders"][0]["explained"] is None


def test_it_is_saved_as_json_with_its_conditions(judged, tmp_path):
    found = judged[2]
    assert found.conditions["transcoders"] == [transcoder_record(each) for each in judged[1]]
    found.save(tmp_path / "evaluation.json")
    read = json.loads((tmp_path / "evaluation.json").read_text())
    assert read["conditions"]["text"]["seed"] == 0
    assert read["transcoders"][0]["replaced"]["loss"] == found.transcoders[0].replaced.loss


@pytest.mark.parametrize(
    ("provenance", "known"),
    [
        ({}, False),
        ({"format": "sparsify", "config": {}}, False),
        ({"method": {"text": {}}}, False),
        ({"method": {"text": {"text": ["another"]}}}, True),
        ({"method": {"text": {"text": ["another"]}, "tuned": {"text": {"text": ["random"]}}}}, False),
    ],
)
def test_rows_count_as_held_out_only_where_the_training_text_is_known(provenance: dict[str, Any], known: bool):
    model = tiny("gpt2")
    transcoders = [for_model(model, 1), for_model(model, 0)]
    transcoders[0].provenance = {"method": {"text": {"text": ["another"]}}}
    transcoders[1].provenance = provenance
    rows = TokenRows(ROWS.ids, {**ROWS.source, "sha256": ROWS.digest})
    found = evaluate_transcoders(model, transcoders, rows, alone=False, together=False, ablations=False)
    assert found.conditions["held_out"] is known


def test_a_set_is_judged_by_itself():
    model = tiny("gpt2")
    both = [for_model(model, 0, n_sites=2), for_model(model, 1), for_model(model, 1)]
    assert "judge one set at a time" in refused(lambda: evaluate_transcoders(model, both, ROWS))


def test_nothing_to_judge_is_refused():
    assert "at least one" in refused(lambda: evaluate_transcoders(tiny("gpt2"), [], ROWS))


def test_what_cannot_be_judged_is_refused_before_the_text_is_run(monkeypatch: pytest.MonkeyPatch):
    model = tiny("gpt2")
    monkeypatch.setattr("edgewise.transcoders.judging._judge.capture", lambda *_: pytest.fail("was run"))
    gap = for_model(model, 0, n_sites=2)
    assert "layer 1, which has none" in refused(lambda: evaluate_transcoders(model, [gap], ROWS))
    only_firsts = TokenRows(ROWS.ids[:, :1])
    one = TokenRows(ROWS.ids[:1, :2])
    for rows in (only_firsts, one):
        said = refused(lambda rows=rows: evaluate_transcoders(model, [for_model(model, 1)], rows))
        assert "fewer than two of its tokens count" in said
