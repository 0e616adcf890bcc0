"""Graphs with features in MLPs' places: exact ends, the fast path as the reference, and what the features stand for."""

from collections.abc import Iterator

import pytest
from torch import Tensor

from edgewise.engine import Engine
from edgewise.models import Model
from tests.engine.featured import KINDS, SITES, featured, features_of, ones, transcoder_of
from tests.engines import Outcome, assert_close, assert_same, outcome, random_masks
from tests.tiny import ONE_OF_EACH, collate, draw_prompts, own_logits, tiny

PROMPTS = draw_prompts((6, 3, 5))
BATCH = collate(PROMPTS)
MODELS = (*ONE_OF_EACH, "plain-norm")


def _variants(model: Model) -> Iterator[Engine]:
    """Every kind of activation and every site, with and without features that are off at first tokens."""
    layers = list(features_of(model))
    for number, site in enumerate(SITES):
        pairs = [
            transcoder_of(model, layer, KINDS[(number + i) % len(KINDS)], site, exclude=number % 2 == 1)
            for i, layer in enumerate(layers)
        ]
        yield featured(model, pairs)


@pytest.mark.parametrize("name", MODELS)
def test_all_edges_are_the_model_and_none_the_corrupted_run(name: str):
    model = tiny(name)
    for engine in _variants(model):
        for skip in (True, False):
            assert_close(engine.run(BATCH, ones(engine), skip=skip), own_logits(model, PROMPTS))
            assert_close(engine.run(BATCH, 0 * ones(engine), skip=skip), own_logits(model, PROMPTS, "corrupted"))
        zero = featured(model, [each.transcoder for each in engine.features.values()], "zero")
        assert_close(zero.run(BATCH, ones(zero)), own_logits(model, PROMPTS))


def _check(fast: Engine, reference: Engine, mask: Tensor) -> None:
    expected = outcome(reference, BATCH, mask)
    fractional = (mask > 0) & (mask < 1)
    for skip in (True, False):
        assert_same(outcome(fast, BATCH, mask, gradients="all", skip=skip), expected)
        found = outcome(fast, BATCH, mask, gradients="fractional", skip=skip)
        assert_same(_only(found, fractional), _only(expected, fractional))


def _only(found: Outcome, edges: Tensor) -> Outcome:
    return found._replace(mask=found.mask[edges])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_fast_path_is_the_reference(name: str, kind: str):
    model = tiny(name)
    for number, ablation in enumerate(("interchange", "zero")):
        site = SITES[(KINDS.index(kind) + 3 * number) % len(SITES)]
        transcoders = [transcoder_of(model, layer, kind, site, exclude=number == 0) for layer in features_of(model)]
        reference = featured(model, transcoders, ablation, path="reference")
        for memory in ("default", "lean"):
            fast = featured(model, transcoders, ablation, memory=memory)
            for mask in random_masks(fast.graph).values():
                _check(fast, reference, mask)
