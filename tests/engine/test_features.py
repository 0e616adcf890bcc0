"""Graphs with features in MLPs' places: exact ends, the fast path as the reference, and what the features stand for."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise import InputError
from edgewise.engine import Engine, Stream, mean_writes
from edgewise.graph import Graph
from edgewise.models import Model, OffloadedLayers, load
from edgewise.tasks import Pair, Target
from edgewise.tasks._pairs import collate as pairs_batch
from edgewise.transcoders import Transcoder, capture
from tests.engine.apart import assert_slopes, with_neurons
from tests.engine.featured import KINDS, SITES, featured, features_of, ones, transcoder_of
from tests.engines import (
    assert_close,
    assert_same,
    assert_same_where_given,
    half_of_choices,
    outcome,
    random_constants,
    random_masks,
)
from tests.models.test_load import _tokenizer
from tests.tiny import ONE_OF_EACH, collate, draw_prompts, own_logits, random_model, tiny
from tests.transcoders.reference import random_transcoder
from tests.transcoders.test_replacement import exact

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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_fast_path_is_the_reference(name: str, kind: str):
    # One ablation and every second kind of mask each time, so that ablations and kinds of mask are each met with every
    # model, with every activation and with each other.
    model, row, column = tiny(name), MODELS.index(name), KINDS.index(kind)
    number = (row + column) % 2
    ablation, site = ("interchange", "zero")[number], SITES[(column + 3 * number) % len(SITES)]
    transcoders = [transcoder_of(model, layer, kind, site, exclude=number == 0) for layer in features_of(model)]
    reference = featured(model, transcoders, ablation, path="reference")
    fast = {memory: featured(model, transcoders, ablation, memory=memory) for memory in ("default", "lean")}
    masks = list(random_masks(reference.graph).values())[(row // 2 + column // 2) % 2 :: 2]
    for half, mask in enumerate(masks, column // 2):
        expected = outcome(reference, BATCH, mask)
        for memory, skip, gradients in half_of_choices(half):
            found = outcome(fast[memory], BATCH, mask, gradients=gradients, skip=skip)
            assert_same_where_given(found, expected, mask, gradients)


# ------------------------------------------------------------------------------------------ what the features stand for


@pytest.mark.parametrize("name", ["gpt2-scaled", "plain"])
def test_an_exact_transcoder_whole_and_with_its_mlps_masks_is_the_mlp(name: str):
    """All features of a transcoder that *is* the ReLU MLP, each with the MLP's own masks, run as the MLP does."""
    model = tiny(name)
    plain, layers = model.graph(), range(len(model.parts.layers))
    transcoders = [exact(model, layer) for layer in layers]
    engine = featured(model, transcoders, features={i: range(each.n_features) for i, each in enumerate(transcoders)})
    like = _like_mlps(engine.graph, plain)
    for mask in random_masks(plain).values():
        wide = mask[..., like]
        expected = outcome(Engine(model, plain), BATCH, mask, gradients="all")
        found = outcome(engine, BATCH, wide, gradients="all")
        assert_close(found.logits, expected.logits)
        assert_close(torch.zeros_like(mask).scatter_add(-1, like.expand_as(wide), found.mask), expected.mask)


def _like_mlps(graph: Graph, plain: Graph) -> Tensor:
    """For each edge of a graph with features, the edge of the graph with MLPs between the same components."""

    def component(name: str) -> str:
        return name.partition(".")[0] if name.startswith("m") else name

    ends = [name.split(" -> ") for name in graph.edge_names(torch.arange(graph.n_edges))]
    return torch.tensor([plain.edge_id(f"{component(writer)} -> {component(reader)}") for writer, reader in ends])


@pytest.mark.parametrize("name", MODELS)
def test_without_features_the_error_term_is_the_whole_mlp_of_the_clean_run(name: str):
    """Where all that an MLP hears is whole, its graph and one with an error term alone in its place agree."""
    model = tiny(name)
    plain, last = model.graph(), len(model.parts.layers) - 1
    engine = featured(model, features={last: ()})
    before = plain.blocks[2 * last + 1].edges  # the MLP's own inputs
    names = [name.replace(".error", "") for name in engine.graph.edge_names(torch.arange(engine.graph.n_edges))]
    numbers = torch.tensor([plain.edge_id(name) for name in names])
    for mask in random_masks(plain).values():
        mask[..., : before.stop] = 1
        assert_close(engine.run(BATCH, mask[..., numbers]), Engine(model, plain).run(BATCH, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_writes_its_activation_times_its_decoder_row(kind: str):
    """Under zero ablation, cutting a feature off the output takes exactly what the transcoder itself says it writes."""
    model = tiny("plain")  # whose output is linear in the stream
    for site, exclude in (("mlp_in", False), ("resid_mid.centred", True)):
        transcoder = transcoder_of(model, 1, kind, site, exclude=exclude)
        engine = featured(model, [transcoder], "zero", {1: range(32)})
        activations = _activations(model, transcoder)
        masks, on = ones(engine).repeat(32, 1), 0
        masks[range(32), [engine.graph.edge_id(f"m1.f{feature} -> logits") for feature in range(32)]] = 0
        whole, cut = engine.run(BATCH, ones(engine)), engine.run(BATCH, masks[:, None])
        for feature in range(32):
            written = activations[:, feature, None] * transcoder.W_dec[feature].detach()
            taken = model.parts.unembed(written) - model.parts.unembed(torch.zeros_like(written))
            assert_close(whole - cut[feature], taken)
            on += int((written != 0).any(1).sum())
        assert 0 < on < 32 * len(BATCH.row)  # or this holds nothing of what turns features on


@torch.no_grad()
def _activations(model: Model, transcoder: Transcoder) -> Tensor:
    """At the targets, by the transcoder's own code on what it reads off the user's module."""
    rows = []
    for prompt in PROMPTS:
        x = capture(model, [transcoder.spec.reads], prompt.clean[None])[transcoder.spec.reads][0]
        z = transcoder.encode(x)
        if transcoder.spec.exclude_special:
            z[0] = 0
        rows.append(z[list(prompt.targets)])
    return torch.cat(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_pruning_changes_no_logit(name: str, kind: str):
    model = tiny(name)
    transcoders = [transcoder_of(model, layer, kind, exclude=True) for layer in features_of(model)]
    ablation = ("interchange", "zero")[(MODELS.index(name) + KINDS.index(kind)) % 2]
    engine, reference = (featured(model, transcoders, ablation, path=path) for path in ("fast", "reference"))
    densities = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.4])[:, None]
    shape = len(densities), engine.graph.n_edges
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < densities
    alive = torch.stack([engine.graph.prune(each, ablation) for each in kept])
    whole, pruned = (reference.run(BATCH, masks[:, None].double()) for masks in (kept, alive))
    for each, expected, found in zip(kept, whole, pruned, strict=True):
        assert_close(found, expected)
        assert_close(engine.run(BATCH, each.double()), expected)  # alone, or none of it is skipped
    assert int(kept.sum()) > int(alive.sum())


@pytest.mark.parametrize("kind", ["relu", "topk:5"])
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "plain-norm"])
def test_mask_gradients_are_finite_differences(name: str, kind: str):
    model = tiny(name)
    transcoders = [transcoder_of(model, layer, kind) for layer in features_of(model)]
    every = {layer: range(32) for layer in features_of(model)}

    def make(path: str) -> Engine:
        return featured(model, transcoders, features=every, path=path)

    mask = random_masks(make("fast").graph)["circuits-and-groups"]
    assert_slopes(make, BATCH, mask, into="-> m", still=3)  # most features are off at most tokens


# ------------------------------------------------------------------------------------ batches, positions, pairs, types


@pytest.mark.parametrize("kind", KINDS)
def test_batch_padding_order_and_what_was_prepared_change_nothing(kind: str):
    model = tiny("gpt2")
    transcoders = [transcoder_of(model, layer, kind, exclude=True) for layer in features_of(model)]
    engine = featured(model, transcoders)
    mask = random_masks(engine.graph)["circuits-and-groups"]
    whole = engine.run(BATCH, mask)
    for padded in (collate(PROMPTS, "left"), collate(PROMPTS, "both", extra=3)):
        assert_close(engine.run(padded, mask), whole)
    alone = torch.cat([engine.run(collate([prompt]), mask) for prompt in PROMPTS], 1)
    assert_close(alone, whole)
    backwards = torch.cat([engine.run(collate([prompt]), mask) for prompt in PROMPTS[::-1]], 1)
    assert_close(engine.run(collate(PROMPTS[::-1]), mask), backwards)
    prepared = featured(model, transcoders)
    prepared.prepare([collate(PROMPTS[1:]), collate(PROMPTS[:1])])
    assert_close(prepared.run(BATCH, mask), whole)


def test_edges_that_carry_positions():
    model = tiny("llama-gqa")
    features = features_of(model)
    plain = featured(model)
    graph = model.graph(spans=("first", "second"), features=features)
    engine = featured(model, graph=graph)
    mask = random_masks(plain.graph)["circuits-and-groups"][:1]  # (1, 2, n)
    assert_close(engine.run(BATCH, mask.flatten()), plain.run(BATCH, mask)[0])
    assert graph.edge_name(graph.edge_id("m0.f4 -> m2.f30 @ second")) == "m0.f4 -> m2.f30 @ second"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "neox-parallel"])
def test_pairs_of_unequal_length(name: str, kind: str):
    model = tiny(name)
    pair = Pair((7, 8, 9, 10, 11), (12, 13, 14, 15), (Target(4, (1,)), Target(1, (2,))), "", "", align=(0, 1, 1, 2, 3))
    batch: Any = pairs_batch([pair, Pair((7, 8, 9), (12, 13, 14), (Target(2, (1,)),), "", "")], range(2))
    transcoders = [transcoder_of(model, layer, kind, exclude=True) for layer in features_of(model)]
    fast, reference = featured(model, transcoders), featured(model, transcoders, path="reference")
    for mask in (0 * ones(fast), *random_masks(fast.graph).values()):
        if mask.ndim == 1:
            assert_same(outcome(fast, batch, mask, gradients="all"), outcome(reference, batch, mask), 1e-8)
    assert_close(fast.run(batch, 0 * ones(fast)), fast.full(batch, "corrupted"))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_in_single_precision(name: str):
    model = tiny(name, torch.float32)
    for kind in KINDS:
        transcoders = [transcoder_of(model, layer, kind) for layer in features_of(model)]
        engine = featured(model, transcoders)
        full = own_logits(model, PROMPTS)
        assert (engine.run(BATCH, ones(engine)) - full).abs().max() <= 1e-5 * full.abs().max()


def test_a_transcoder_in_another_type_is_used_in_the_models():
    model = tiny("gpt2")
    transcoders = [transcoder_of(model, layer, "topk:5") for layer in features_of(model)]
    single = [transcoder_of(model, layer, "topk:5").float() for layer in features_of(model)]
    engine, other = featured(model, transcoders), featured(model, single)
    mask = random_masks(engine.graph)["mixed"]
    assert_close(other.run(BATCH, mask), engine.run(BATCH, mask), 1e-5)
    assert other.transcoder_identity != engine.transcoder_identity


# ------------------------------------------------------------------------------------------------------ what is refused


def test_what_cannot_be_taken_apart_is_refused_in_one_line():
    model = tiny("gpt2")
    first, second = (transcoder_of(model, layer) for layer in features_of(model))
    graph, d = model.graph(features=features_of(model)), model.parts.d_model
    means = random_constants(model, graph, "mean")
    cross = random_transcoder("relu", n_sites=3, d_in=d, d_out=d)
    narrow = random_transcoder("relu", layer=2)
    autoencoder = random_transcoder("relu", layer=2, autoencoder=True, d_in=d)
    uncentred = random_transcoder("relu", layer=2, reads="resid_mid", d_in=d, d_out=d)
    bad: list[tuple[Callable[[], Any], str]] = [
        (lambda: Engine(model, graph), "layer 0 has features; give its transcoder"),
        (lambda: featured(model, [first], graph=graph), "layer 2 has features; give its transcoder"),
        (lambda: featured(model, [first, second, first]), "two are of one layer"),
        (lambda: Engine(model, transcoders=first), "the graph has no features"),
        (lambda: featured(model, [cross, second]), "writes to later layers \\[1, 2\\]"),
        (lambda: featured(model, [first, narrow]), "width 12 there, the model 32"),
        (lambda: featured(model, [first, autoencoder]), "its features read what the MLP wrote"),
        (lambda: featured(model, [first, uncentred]), "keeps no mean"),
        (lambda: featured(model, features={0: (32,)}), "feature 32 of layer 0; its transcoder has 32"),
        (lambda: featured(model, ablation="mean", constants=means), "a graph with features takes interchange or zero"),
        (lambda: featured(tiny("gpt2", torch.bfloat16)), "load it in float32"),
        (lambda: mean_writes(model, graph, []), "use interchange or zero"),
        (lambda: Stream(featured(model), BATCH), "which a stream does not run"),
    ]
    for call, complaint in bad:
        with pytest.raises(InputError, match=complaint) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_features_that_would_drown_the_model_are_refused():
    model = tiny("gpt2", torch.float32)
    loud = [transcoder_of(model, layer) for layer in features_of(model)]
    with torch.no_grad():
        loud[0].W_dec.mul_(1e7)
    with pytest.raises(InputError, match="off the model by"):
        featured(model, loud)


# ------------------------------------------------------------------------------------------------------- larger models


@pytest.mark.parametrize("path", ["fast", "reference"])
def test_an_offloaded_model_of_another_type(tmp_path: Path, path: str):
    """Its modules have their weights in float32 only while they are walked; no other layers than these stay there."""
    module: Any = random_model("gpt2", torch.float32).module.to(torch.bfloat16)
    module.save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    whole, offloaded = (load(tmp_path, dtype=torch.float32, offload=where) for where in (None, "disk"))
    transcoders = [transcoder_of(whole, layer, "topk:5", "mlp_normalized") for layer in range(3)]
    layers, every = offloaded.parts.layers, dict.fromkeys(range(3), (1, 4, 20))
    assert isinstance(layers, OffloadedLayers)
    seen, visit = list[weakref.ref[Any]](), layers.visit

    def noting(*given: Any) -> Any:
        seen.append(weakref.ref(layer := visit(*given)))
        return layer

    layers.visit = noting  # pyright: ignore[reportAttributeAccessIssue] (a wrapper)
    for make in (
        lambda model: featured(model, transcoders, features=every, path=path),
        lambda model: with_neurons(model, neurons=every, path=path),
    ):
        own, resident = make(offloaded), make(whole)
        assert len({id(layer) for each in seen if (layer := each()) is not None}) <= 2 < len(seen)
        mask = random_masks(own.graph)["circuits-and-groups"]
        assert_same(outcome(own, BATCH, mask), outcome(resident, BATCH, mask), 1e-6)
