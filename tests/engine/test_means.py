"""Mean ablation's constants are the plain averages of what each writer writes, token by token."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine import Ablation, Engine, Writes, mean_writes
from edgewise.engine._packing import pack
from edgewise.engine._writes import trace
from edgewise.graph import Graph
from edgewise.models import Model
from tests.engines import assert_close, assert_same, conventions, outcome, random_masks
from tests.tiny import ONE_OF_EACH, collate, draw_prompts, tiny

PROMPTS = draw_prompts((6, 3, 5, 1, 6))


def _by_token(model: Model, graph: Graph) -> list[list[Tensor]]:
    """For each prompt, run alone, what every writer wrote: tensors `[S, …]`."""
    traces = [trace(model.parts, graph, pack(collate([prompt]).clean)) for prompt in PROMPTS]
    return [[*(x.embeds if graph.n_embeddings else ()), *x.heads, *x.mlps] for x in traces]


def _batches(**padding) -> Iterator:
    yield collate(PROMPTS[:2], **padding).clean
    yield collate(PROMPTS[2:], **padding).clean


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_means_are_averages_over_all_tokens(name: str):
    model = tiny(name)
    for graph in conventions(model):
        found = mean_writes(model, graph, _batches(side="left", extra=1)).tensors()
        columns = zip(*_by_token(model, graph), strict=True)
        for mean, tokens in zip(found, columns, strict=True):
            assert_close(mean, torch.cat(tokens).mean(0, keepdim=True))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_positional_means_are_averages_over_the_prompts_that_are_long_enough(name: str):
    model = tiny(name)
    for graph in conventions(model):
        found = mean_writes(model, graph, _batches(side="both", extra=3), positional=True).tensors()
        columns = zip(*_by_token(model, graph), strict=True)
        for mean, tokens in zip(found, columns, strict=True):
            assert len(mean) == 6
            for position in range(6):
                there = [x[position] for x in tokens if len(x) > position]
                assert_close(mean[position], torch.stack(there).mean(0))


def test_positions_that_no_prompt_reaches_have_the_mean_over_all_tokens():
    model = tiny("gpt2")
    batches = list(_batches(side="right", extra=0))
    plain, short, long = (
        mean_writes(model, model.graph(), batches, **choice).tensors()
        for choice in ({}, {"positional": True}, {"positional": True, "longest": 8})
    )
    for overall, own, padded in zip(plain, short, long, strict=True):
        assert len(own) == 6 and len(padded) == 8 and torch.equal(padded[:6], own)
        assert_close(padded[6:], overall.expand(2, *overall.shape[1:]))


@pytest.mark.parametrize("positional", [False, True])
def test_how_prompts_are_batched_does_not_matter(positional: bool):
    model = tiny("llama-gqa")
    graph = model.graph()
    whole = mean_writes(model, graph, [collate(PROMPTS).clean], positional=positional)
    single = mean_writes(model, graph, (collate([p]).clean for p in reversed(PROMPTS)), positional=positional)
    for one, other in zip(whole.tensors(), single.tensors(), strict=True):
        assert_close(one, other)
        assert not one.requires_grad


def test_they_are_what_the_engine_takes():
    model = tiny("gpt2")
    batch = collate(PROMPTS)
    for graph in conventions(model):
        mask = random_masks(graph)["mixed"]
        for positional in (False, True):
            constants = mean_writes(model, graph, [batch.clean], positional=positional)
            ablation = Ablation("mean-positional" if positional else "mean", source="train")
            fast, reference = (
                Engine(model, graph, ablation, constants=constants, path=path) for path in ("fast", "reference")
            )
            assert_same(outcome(fast, batch, mask, gradients="all"), outcome(reference, batch, mask))


def test_learned_constants_may_start_at_the_means():
    model = tiny("gpt2")
    batch = collate(PROMPTS)
    for graph in conventions(model):
        means = mean_writes(model, graph, [batch.clean]).tensors()
        start = Writes.from_tensors((x.requires_grad_() for x in means), graph)
        learned = Engine(model, graph, Ablation("learned", source="train"), constants=start)
        learned.run(batch, random_masks(graph)["fractional"]).square().sum().backward()
        assert all(x.grad is not None and x.grad.shape == x.shape for x in start.tensors())


def test_a_prompt_longer_than_the_model_is_refused():
    model = tiny("gpt2")
    with pytest.raises(InputError, match="has 65 tokens, and the model has 64 positions"):
        mean_writes(model, model.graph(), [collate(draw_prompts((65,))).clean])


def test_no_prompts():
    with pytest.raises(InputError, match="mean ablation: no prompts to average over"):
        mean_writes(tiny("gpt2"), tiny("gpt2").graph(), [])
