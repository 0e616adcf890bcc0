"""A mask of ones is the user's own model, one of zeros its ablated run, in every configuration and ablation."""

from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.engine import Engine, require
from edgewise.graph import Graph
from edgewise.models import load
from tests.engine.apart import with_neurons
from tests.engines import ABLATIONS, assert_close, conventions, engine
from tests.tiny import CONFIGURATIONS, ONE_OF_EACH, Prompt, collate, draw_prompts, own_logits, tiny

PROMPTS = draw_prompts((6, 3, 5))
BATCH = collate(PROMPTS)


def _ways(name: str) -> list[tuple[str, Graph, bool]]:
    """Every ablation under the default convention, and every convention under two of them; and whether to skip what
    cannot matter, or not: either with every configuration, with every ablation and with every convention.
    """
    model = tiny(name)
    ways = [(a, model.graph()) for a in ABLATIONS]
    ways += [(a, graph) for a in ("interchange", "zero-shared") for graph in conventions(model)[1:]]
    return [(*way, number % 2 == 0) for number, way in enumerate(ways, list(CONFIGURATIONS).index(name))]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_full_mask_is_the_module(name: str):
    model = tiny(name)
    expected = own_logits(model, PROMPTS)
    for ablation, graph, skip in _ways(name):
        assert_close(engine(model, graph, ablation).run(BATCH, torch.ones(graph.n_edges), skip=skip), expected)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_empty_mask_is_the_corrupted_run(name: str):
    model = tiny(name)
    expected = own_logits(model, PROMPTS, "corrupted")
    for graph in conventions(model):
        if graph.n_embeddings:
            for skip in (True, False):
                assert_close(engine(model, graph).run(BATCH, torch.zeros(graph.n_edges), skip=skip), expected)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_empty_mask_is_otherwise_the_readout_of_what_ablated_edges_carry(name: str):
    model = tiny(name)
    for ablation, graph, skip in _ways(name):
        if ablation == "interchange":
            continue
        ablated = engine(model, graph, ablation)
        assert_close(ablated.run(BATCH, torch.zeros(graph.n_edges), skip=skip), _readout(ablated))


@torch.no_grad()
def _readout(engine: Engine) -> Float[Tensor, "A V"]:
    """The final norm and unembedding of `c + Σ z̃` at each target, one vector at a time."""
    parts, values, graph = engine.model.parts, engine.constants, engine.graph
    assert values is not None

    def at(tensor: Tensor, position: int) -> Tensor:
        return tensor[position if len(tensor) > 1 else 0]

    def stream(prompt: Prompt, position: int) -> Tensor:
        x = torch.zeros(parts.d_model, dtype=torch.float64)
        if not graph.n_embeddings:  # not writers: always clean
            x = x + sum(
                term[0] for term in parts.embed(prompt.clean[position : position + 1], torch.tensor([position]))
            )
        for embedding in values.embeds:
            x = x + at(embedding, position)
        for layer, heads, mlp in zip(parts.layers, values.heads, values.mlps, strict=True):
            for head in range(parts.n_heads):
                x = x + at(heads, position)[head] @ layer.attention.output[head]
            x = x + at(mlp, position)
            if layer.attention.output_bias is not None and not engine.ablation.splits_bias:
                x = x + layer.attention.output_bias
        return x

    streams = torch.stack([stream(prompt, position) for prompt in PROMPTS for position in prompt.targets])
    return parts.unembed(parts.final_norm.module(streams))


@pytest.mark.parametrize("name", ["gpt2", "llama-biases", "neox-parallel", "plain-norm"])
def test_under_zero_ablation_without_shared_biases_only_those_are_left(name: str):
    model = tiny(name)
    graph = model.graph()
    empty = torch.zeros(graph.n_edges)
    layers, shared = (
        engine(model, graph, "zero").run(BATCH, empty),
        engine(model, graph, "zero-shared").run(BATCH, empty),
    )
    bias = model.parts.final_norm.bias
    silent = torch.zeros_like(shared[:, 0:1]) if bias is None else bias.expand(len(shared), -1)
    if bias is None:
        silent = silent.expand(-1, model.parts.d_model)
    assert_close(shared, model.parts.unembed(silent))
    assert (layers - shared).abs().max() > 0.1  # the layers' biases, which stay on


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_in_single_precision_to_a_hundred_thousandth_of_the_largest_logit(name: str):
    model = tiny(name, torch.float32)
    clean, corrupted = own_logits(model, PROMPTS), own_logits(model, PROMPTS, "corrupted")
    for graph in conventions(model):
        for ablation in ("interchange", "zero"):
            run = engine(model, graph, ablation).run
            assert (run(BATCH, torch.ones(graph.n_edges)) - clean).abs().max() <= 1e-5 * clean.abs().max()
        if graph.n_embeddings:
            empty = engine(model, graph).run(BATCH, torch.zeros(graph.n_edges))
            assert (empty - corrupted).abs().max() <= 1e-5 * corrupted.abs().max()


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_masks_and_their_gradients_are_single(name: str, dtype: torch.dtype):
    model = tiny(name, dtype)
    expected = own_logits(tiny(name, torch.float32), PROMPTS)
    mask = torch.ones(model.graph().n_edges, requires_grad=True)
    logits = engine(model).run(BATCH, mask, gradients="all")
    assert (logits - expected).abs().max() <= 0.05 * expected.abs().max()
    logits.float().logsumexp(-1).sum().backward()
    assert mask.grad is not None and mask.grad.dtype == torch.float32
    wanted = torch.ones_like(mask, requires_grad=True)
    engine(tiny(name, torch.float32)).run(BATCH, wanted, gradients="all").logsumexp(-1).sum().backward()
    assert wanted.grad is not None
    assert torch.nn.functional.cosine_similarity(mask.grad, wanted.grad, dim=0) > 0.99


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_full_is_the_module_on_either_prompt_however_padded(name: str, side):
    model = tiny(name)
    batch = collate(PROMPTS, side, extra=2)
    assert_close(engine(model).full(batch), own_logits(model, PROMPTS))
    assert_close(engine(model).full(batch, "corrupted"), own_logits(model, PROMPTS, "corrupted"))


def test_the_clean_and_corrupted_runs_differ():
    for name in CONFIGURATIONS:  # or the tests above would hold nothing
        model = tiny(name)
        assert (own_logits(model, PROMPTS) - own_logits(model, PROMPTS, "corrupted")).abs().max() > 0.5


def test_biases_of_some_projections_alone():
    """As of a registered family: on queries and values but not on keys, on the gate but not on `up`."""
    module: Any = CONFIGURATIONS["llama-biases"]().eval().double()
    for layer in module.model.layers:
        layer.self_attn.k_proj.bias = layer.mlp.up_proj.bias = None
    model = load(module)
    require(model)
    engine = with_neurons(model)
    full = own_logits(model, PROMPTS)
    assert_close(engine.run(BATCH, torch.ones(engine.graph.n_edges)), full, 1e-6)  # its norms round to float32
