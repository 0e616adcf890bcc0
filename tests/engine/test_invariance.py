"""What must not matter: order, batch size, padding, the cache, how circuits and position groups are put together."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.engine import Engine
from tests.engines import (
    ABLATIONS,
    Outcome,
    assert_close,
    assert_same,
    conventions,
    engine,
    outcome,
    per_prompt,
    random_masks,
)
from tests.tiny import ONE_OF_EACH, VOCABULARY, Prompt, collate, draw_prompts, own_logits, tiny

PROMPTS = draw_prompts((6, 3, 5, 6))
MODELS = (*ONE_OF_EACH, "mistral-window", "llama-yarn")
KINDS = ("by-reader", "circuits-and-groups")


def _weights(width: int) -> list[Tensor]:
    """Weights of each prompt's logits in the loss, so that a prompt counts the same wherever it stands."""
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(len(p.targets), width, generator=generator, dtype=torch.float64) for p in PROMPTS]


def test_corrupted_prompts_may_be_padded_otherwise_than_clean_ones():
    model = tiny("llama-gqa")
    mask = random_masks(model.graph())["circuits-and-groups"]
    left, right = collate(PROMPTS, "left", extra=1), collate(PROMPTS)
    for path in ("fast", "reference"):
        mixed = outcome(engine(model, path=path), replace(left, corrupted=right.corrupted), mask)
        assert_same(mixed, outcome(engine(model, path=path), right, mask))
    mixed = replace(left, corrupted=right.corrupted)
    expected = own_logits(model, PROMPTS, "corrupted")
    assert_close(engine(model).full(mixed, "corrupted"), expected)
    assert_close(engine(model).run(mixed, torch.zeros(model.graph().n_edges, dtype=torch.float64)), expected)


def _run(engine: Engine, which: Sequence[int], mask: Tensor, **padding: Any) -> Outcome:
    weights = _weights(
        engine.model.parts.unembed(torch.zeros(1, engine.model.parts.d_model, dtype=torch.float64)).shape[-1]
    )
    batch = collate([PROMPTS[i] for i in which], **padding)
    return outcome(engine, batch, mask, torch.cat([weights[i] for i in which]), gradients="all")


def _rows(which: Sequence[int]) -> Tensor:
    """Where the targets of these prompts stand in the batch of all of them."""
    first = torch.tensor([0] + [len(p.targets) for p in PROMPTS]).cumsum(0)
    return torch.cat([torch.arange(int(first[i]), int(first[i + 1])) for i in which])


def _mask(name: str, ablation: str) -> Tensor:
    """Of one kind or the other: either is met with every model and with every ablation."""
    turn = MODELS.index(name) + list(ABLATIONS).index(ablation)
    return random_masks(tiny(name).graph())[KINDS[turn % 2]]


@pytest.mark.parametrize("ablation", ["interchange", "mean-positional", "learned"])
@pytest.mark.parametrize("name", MODELS)
def test_order_and_padding(name: str, ablation: str):
    model = tiny(name)
    mask = _mask(name, ablation)
    expected = _run(engine(model, None, ablation), (0, 1, 2, 3), mask)
    order = (2, 0, 3, 1)
    for padding in ({}, {"side": "left"}, {"side": "both", "extra": 3}, {"side": "right", "extra": 2}):
        found = _run(engine(model, None, ablation), order, mask, **padding)
        assert_same(found, expected._replace(logits=expected.logits[..., _rows(order), :]))


@pytest.mark.parametrize("ablation", ["interchange", "learned"])
@pytest.mark.parametrize("name", MODELS)
def test_batches_of_any_size_sum_to_the_whole(name: str, ablation: str):
    model = tiny(name)
    run, mask = engine(model, None, ablation), _mask(name, ablation)
    whole = _run(run, (0, 1, 2, 3), mask)
    for split in (((0, 1), (2, 3)), ((0,), (1,), (2,), (3,)), ((1, 2, 3), (0,))):
        pieces = [_run(run, which, mask) for which in split]
        for which, piece in zip(split, pieces, strict=True):
            assert_close(piece.logits, whole.logits[..., _rows(which), :])
        assert_close(torch.stack([p.mask for p in pieces]).sum(0), whole.mask)
        for parts, total in zip(zip(*(p.constants for p in pieces), strict=True), whole.constants, strict=True):
            assert_close(torch.stack(parts).sum(0), total)


def test_the_cache_changes_nothing():
    model = tiny("llama-gqa")
    for graph in conventions(model):
        mask = random_masks(graph)["by-reader"]
        batches = ((0, 1), (1, 2), (2, 2), (3, 0, 1, 2), (0, 1))
        expected = [_run(engine(model, graph), which, mask) for which in batches]
        for cache_bytes in (0, 1, 60_000, 1 << 30):
            cached = engine(model, graph, cache_bytes=cache_bytes)
            cached.prepare([collate(PROMPTS[:2]), collate(PROMPTS[1:])])
            for which, fresh in zip(batches, expected, strict=True):
                for side in ("left", "right"):
                    assert_same(_run(cached, which, mask, side=side), fresh)


def test_a_cache_too_small_for_the_ablated_values_still_keeps_the_full_models(monkeypatch: pytest.MonkeyPatch):
    """The full model's last hidden states are small: all pairs' may fit where few pairs' ablated values do."""
    cached = engine(tiny("llama-gqa"))
    cached._store.n_bytes = 40_000
    batches = [collate([prompt]) for prompt in PROMPTS]
    cached.prepare(batches)
    assert 0 < len(cached._store.pinned) < len(PROMPTS)
    before = [cached.full(batch) for batch in batches]
    monkeypatch.setattr(cached._hidden, "compute", None)  # to compute one now would fail
    for batch, logits in zip(batches, before, strict=True):
        assert_close(cached.full(batch), logits)


def test_the_cache_tells_examples_apart():
    """The same clean prompt with another corrupted one, and prompts that begin or end like another."""
    model = tiny("gpt2")
    cached = engine(model)
    run = cached.run
    mask = random_masks(model.graph())["fractional"]
    first, _, third, _ = PROMPTS
    longer = Prompt(
        torch.cat([first.clean, first.clean[:2]]),
        torch.cat([first.corrupted, third.corrupted[:2]]),
        torch.zeros(8),
        (7,),
    )
    other = Prompt(first.clean, first.corrupted.flip(0), first.groups, first.targets)
    ending, beginning = (replace(first, clean=first.clean.clone(), corrupted=first.corrupted.clone()) for _ in range(2))
    for token, changed in ((0, ending), (-1, beginning)):
        for ids in (changed.clean, changed.corrupted):
            ids[token] = (ids[token] + 1) % VOCABULARY
    shorter = Prompt(ending.clean[1:], ending.corrupted[1:], first.groups[1:], (4,))
    alone = [first, other, longer, ending, beginning, shorter]
    for prompts in (*([prompt] for prompt in alone), alone):
        batch, fresh = collate(prompts), engine(model, cache_bytes=0)
        assert_close(run(batch, mask), fresh.run(batch, mask))
        for which in ("clean", "corrupted"):
            for _ in range(2):
                assert_close(cached.full(batch, which), own_logits(model, prompts, which))
    assert (run(collate([first]), mask) - run(collate([other]), mask)).abs().max() > 1e-3


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_circuits_in_one_pass_are_circuits_one_by_one(name: str, ablation: str):
    model = tiny(name)
    masks = torch.stack([random_masks(model.graph())[kind] for kind in ("by-reader", "mixed", "sparse", "binary")])
    batch, run = collate(PROMPTS[:3]), engine(model, None, ablation)
    # Either kind of gradients with every model, and with every ablation.
    everything = (ONE_OF_EACH.index(name) + list(ABLATIONS).index(ablation)) % 2 == 0
    gradients = "all" if everything else "fractional"
    together = outcome(run, batch, masks[:, None], gradients=gradients)
    weights = torch.randn(together.logits.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    alone = [outcome(run, batch, mask, w, gradients=gradients) for mask, w in zip(masks, weights, strict=True)]
    chosen = torch.ones_like(masks, dtype=torch.bool) if everything else (masks > 0) & (masks < 1)
    assert_close(together.logits, torch.stack([x.logits for x in alone]))
    assert_close(together.mask[:, 0][chosen], torch.stack([x.mask for x in alone])[chosen])
    for i, total in enumerate(together.constants):
        assert_close(total, torch.stack([x.constants[i] for x in alone]).sum(0))


@pytest.mark.parametrize("ablation", ["interchange", "zero", "mean-positional", "learned-shared"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_position_groups(name: str, ablation: str):
    model = tiny(name)
    run = engine(model, None, ablation)
    batch = collate(draw_prompts((6, 3, 5), n_groups=3), "left")
    masks = torch.stack([random_masks(model.graph())[kind] for kind in ("mixed", "by-reader", "fractional")])
    # Equal groups are no groups, and their gradients sum to its gradient.
    single = outcome(run, batch, masks[0], gradients="all")
    same = outcome(run, batch, masks[:1].expand(1, 3, -1), gradients="all")
    assert_close(same.logits[0], single.logits)
    assert_close(same.mask.sum((0, 1)), single.mask)
    # Renaming the groups changes nothing.
    grouped = outcome(run, batch, masks[None], gradients="all")
    order = torch.tensor([2, 0, 1])
    assert batch.span_id is not None
    renamed = replace(batch, span_id=order.argsort()[batch.span_id.clamp(min=0)])
    permuted = outcome(run, renamed, masks[None, order], gradients="all")
    assert_close(permuted.logits, grouped.logits)
    assert_close(permuted.mask[:, order.argsort()], grouped.mask)
    # Circuits with groups are circuits with groups one by one.
    both = run.run(batch, torch.stack([masks, masks[order]]))
    assert_close(both[0], grouped.logits[0])
    assert_close(both[1], run.run(batch, masks[None, order])[0])
    # A group that no token is in does not matter.
    unused = outcome(run, batch, torch.cat([masks, torch.full_like(masks[:1], 0.5)])[None], gradients="all")
    assert_close(unused.logits, grouped.logits)
    assert_close(unused.mask[:, :3], grouped.mask)
    assert not unused.mask[:, 3].any()


@pytest.mark.parametrize("targets", [[(0, 5), (0, 0), (0, 3)], [(2, 4), (0, 1), (1, 2), (0, 1), (2, 0)]])
def test_targets_in_any_order_and_number(targets: list[tuple[int, int]]):
    model = tiny("llama-gqa")
    prompts = PROMPTS[:3]
    everywhere = [Prompt(p.clean, p.corrupted, p.groups, tuple(range(len(p.clean)))) for p in prompts]
    mask = random_masks(model.graph())["circuits-and-groups"]
    for path in ("fast", "reference"):
        run = engine(model, path=path).run
        batch = collate(everywhere, "left")
        logits = [per_prompt(batch, circuit) for circuit in run(batch, mask)]
        row, position = (torch.tensor(column) for column in zip(*targets, strict=True))
        starts = batch.clean.mask.int().argmax(1)
        chosen = replace(batch, row=row, position=position + starts[row])
        expected = torch.stack([torch.stack([circuit[b][t] for b, t in targets]) for circuit in logits])
        assert_close(run(chosen, mask), expected)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_dropping_what_carries_no_signal_changes_no_logit(name: str, ablation: str):
    model = tiny(name)
    batch = collate(PROMPTS[:3])
    dropped = 0
    # Hard masks or soft ones: either with every model, with every ablation and with every convention.
    for number, graph in enumerate(conventions(model), ONE_OF_EACH.index(name) + list(ABLATIONS).index(ablation)):
        run, reference = engine(model, graph, ablation).run, engine(model, graph, ablation, path="reference").run
        densities = torch.tensor([0.05, 0.1, 0.2, 0.4])[:, None]
        uniform = torch.rand(2, 4, graph.n_edges, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        kept = uniform[0] < densities
        alive = torch.stack([graph.prune(each, ABLATIONS[ablation].kind) for each in kept])
        dropped += int(kept.sum() - alive.sum())
        value = (torch.ones_like(uniform[1]), uniform[1])[number % 2]
        # By the reference, which drops nothing by itself; and each alone by the engine, which does.
        whole, pruned = (reference(batch, (value * edges)[:, None]) for edges in (kept, alive))
        for mask, expected, found in zip(value * kept, whole, pruned, strict=True):
            assert_close(found, expected)
            assert_close(run(batch, mask), expected)
    assert dropped > 20


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel", "twisted"])
def test_under_interchange_what_is_not_dropped_carries_signal(name: str):
    """Of generic weights, exactly the edges that `prune` leaves have a gradient.

    Other ablations leave some more: a query matters only where values differ; those of a head without inputs do not.
    """
    model = tiny(name)
    n_alive = 0
    for graph in (model.graph(), model.graph("off"), model.graph("joint", "expanded")):
        for seed in range(3):
            uniform = torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(seed))
            kept = uniform < (0.08, 0.15, 0.3)[seed]
            alive = graph.prune(kept, "interchange")[kept]
            gradient = outcome(engine(model, graph), collate(PROMPTS), kept.double(), gradients="all").mask[kept]
            assert_close(gradient[~alive], torch.zeros_like(gradient[~alive]), 1e-12)
            assert (gradient[alive].abs() > 1e-9).all()
            n_alive += int(alive.sum())
    assert n_alive > 50
