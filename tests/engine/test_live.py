"""Tokens before a pair's first difference and after its last target are not run, and it changes nothing."""

from dataclasses import replace

import pytest
import torch

from edgewise.engine import Engine
from edgewise.engine._live import split_tokens
from edgewise.engine._packing import pack
from tests.engines import ABLATIONS, assert_same_where_given, conventions, engine, outcome, random_masks
from tests.tiny import ONE_OF_EACH, Prompt, collate, draw_prompts, tiny


def shared_prefix(prompt: Prompt, n: int, targets: tuple[int, ...]) -> Prompt:
    """The same with the first `n` tokens of both prompts alike, and other targets."""
    corrupted = torch.cat([prompt.clean[:n], (prompt.clean[n:] + 1) % 5])
    return replace(prompt, corrupted=corrupted, targets=targets)


LONG, SHORT, EQUAL, EARLY = draw_prompts((7, 4, 5, 6), seed=3)
PROMPTS = [
    shared_prefix(LONG, 4, (6,)),
    shared_prefix(SHORT, 1, (2,)),  # a token after its last target
    shared_prefix(EQUAL, 5, (4,)),  # no difference at all
    shared_prefix(EARLY, 4, (1, 4)),  # a target before the first difference
]
BATCH = collate(PROMPTS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_run_and_what_is_looked_at(side):
    batch = collate(PROMPTS, side)
    run, fixed = split_tokens(tiny("gpt2").parts, "interchange", batch, pack(batch.clean))
    expected = ["ffffrrr", "frr-", "ffffr", "frrrr-"]
    letters = ["r" if r else "f" if f else "-" for r, f in zip(run.tolist(), fixed.tolist(), strict=True)]
    assert "".join(letters) == "".join(expected)


def test_under_other_ablations_and_without_causal_attention_every_token_before_a_target_is_run():
    packing = pack(BATCH.clean)
    run, fixed = split_tokens(tiny("gpt2").parts, "zero", BATCH, packing)
    assert not fixed.any() and (~run).sum() == 2
    run, fixed = split_tokens(tiny("plain-bidirectional").parts, "interchange", BATCH, packing)
    assert run.all() and not fixed.any()


@pytest.mark.parametrize("memory", ["default", "lean"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_fast_path_is_the_reference(name, memory):
    model = tiny(name)
    for index, graph in enumerate(conventions(model)):
        masks = list(random_masks(graph, seed=4).items())
        ablation = ("interchange", "zero", "interchange")[index % 3]
        for kind, mask in masks[index % 2 :: 2]:
            gradients = "all" if kind in ("binary", "one-fraction") else "fractional"
            expected = outcome(engine(model, graph, ablation, path="reference"), BATCH, mask)
            found = outcome(engine(model, graph, ablation, memory=memory), BATCH, mask, gradients=gradients)
            assert_same_where_given(found, expected, mask, gradients)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_full_masks_are_the_model(ablation):
    model = tiny("llama-gqa")
    run = engine(model, None, ablation)
    ones = torch.ones(run.graph.n_edges, dtype=torch.float64)
    torch.testing.assert_close(run.run(BATCH, ones), run.full(BATCH), rtol=0, atol=1e-9)


def test_no_edge_is_the_corrupted_run():
    run = Engine(tiny("gpt2"))
    zeros = torch.zeros(run.graph.n_edges, dtype=torch.float64)
    torch.testing.assert_close(run.run(BATCH, zeros), run.full(BATCH, "corrupted"), rtol=0, atol=1e-9)
