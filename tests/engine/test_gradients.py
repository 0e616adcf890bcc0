"""Gradients against finite differences, through node masks, and against exact patches where the model is linear."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgewise.engine import Engine, Writes
from edgewise.models import Model
from tests.engines import ABLATIONS, assert_close, engine, outcome, random_masks
from tests.tiny import ONE_OF_EACH, collate, draw_prompts, random_model, tiny

BATCH = collate(draw_prompts((5, 3)))
STEP = 1e-5


def _derivative(f: Callable[[float], Tensor]) -> Tensor:
    """f'(0) by the five-point stencil: of fourth order, since a norm bends sharply near an input of zero."""
    near, far = (f(step) - f(-step) for step in (STEP, 2 * STEP))
    return (8 * near - far) / (12 * STEP)


def _weights(logits: Tensor) -> Tensor:
    return torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=logits.dtype)


def _smooth(name: str) -> str:
    return name.replace("plain-bidirectional", "plain-norm")  # a ReLU may have its kink within a step


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", [_smooth(name) for name in ONE_OF_EACH])
def test_mask_gradients_are_finite_differences(name: str, ablation: str):
    model = tiny(name)
    run = engine(model, None, ablation)
    # Hard edges too: their two-sided derivative is defined as well.
    mask = random_masks(model.graph())["circuits-and-groups"]
    weights = _weights(run.run(BATCH, mask))
    gradient = outcome(run, BATCH, mask, weights, gradients="all").mask.flatten()
    edges = torch.randperm(mask.numel())[:12]
    directions = torch.zeros(len(edges), mask.numel(), dtype=mask.dtype)
    directions[range(len(edges)), edges] = 1

    reference = engine(model, None, ablation, path="reference")

    def losses(step: float) -> Tensor:
        """After a step along each direction, all run at once as so many circuits."""
        moved = reference.run(BATCH, (mask + step * directions.view(-1, *mask.shape)).flatten(0, 1)).detach()
        return (moved.view(len(edges), *weights.shape) * weights).flatten(1).sum(1)

    for found, slope in zip(gradient[edges], _derivative(losses), strict=True):
        assert_close(found, slope, 1e-7)


@pytest.mark.parametrize("ablation", ["learned", "learned-shared"])
@pytest.mark.parametrize("name", [_smooth(name) for name in ONE_OF_EACH])
def test_constants_gradients_are_finite_differences(name: str, ablation: str):
    model = tiny(name)
    learned = engine(model, None, ablation)
    assert learned.constants is not None
    mask = random_masks(model.graph())["mixed"]
    weights = _weights(learned.run(BATCH, mask))
    gradients = outcome(learned, BATCH, mask, weights).constants
    values = learned.constants.tensors()

    for which, gradient in enumerate(gradients):
        direction = torch.randn_like(values[which])

        def loss(step: float, which=which, direction=direction) -> Tensor:
            moved = tuple(x.detach() + step * direction if i == which else x.detach() for i, x in enumerate(values))
            constants = Writes.from_tensors(moved, model.graph())
            return (Engine(model, None, ABLATIONS[ablation], constants=constants).run(BATCH, mask) * weights).sum()

        assert_close((gradient * direction).sum(), _derivative(loss), 1e-7)


@pytest.mark.parametrize("masks_too", [True, False])
def test_constants_are_learned_with_or_without_masks(masks_too: bool):
    model = tiny("llama-gqa")
    fast, reference = engine(model, None, "learned"), engine(model, None, "learned", path="reference")
    mask = random_masks(model.graph())["mixed"].requires_grad_(masks_too)
    for each in (fast, reference):
        each.run(BATCH, mask).square().sum().backward()
    assert fast.constants is not None and reference.constants is not None
    for one, other in zip(fast.constants.tensors(), reference.constants.tensors(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert_close(one.grad, other.grad)


def test_some_constants_may_be_frozen():
    model = tiny("gpt2")
    fast = engine(model, None, "learned")
    assert fast.constants is not None
    fast.constants.heads[1].requires_grad_(False)
    mask = random_masks(model.graph())["mixed"]
    fast.run(BATCH, mask).sum().backward()
    assert fast.constants.heads[1].grad is None
    assert all(x.grad is not None for i, x in enumerate(fast.constants.heads) if i != 1)


@pytest.mark.parametrize("ablation", ["interchange", "learned"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_node_masks(name: str, ablation: str):
    """A node mask is the product with its writer's mask, outside the engine; autograd carries its gradient on."""
    model = tiny(name)
    graph = model.graph()
    edges = random_masks(graph)["fractional"]
    node = torch.rand(graph.n_writers, dtype=torch.float64)
    found = []
    for path in ("fast", "reference"):
        leaf = node.clone().requires_grad_()
        logits = engine(model, graph, ablation, path=path).run(BATCH, edges * leaf[graph.edge_writer.long()])
        (logits * _weights(logits)).sum().backward()
        found.append((logits, leaf.grad))
    assert_close(found[0][0], found[1][0])
    assert_close(found[0][1], found[1][1])
    # A node at 0 is all its edges at 0.
    node[graph.n_embeddings] = 0
    without = edges.where(graph.edge_writer != graph.n_embeddings, 0.0)
    without = without * node.where(node > 0, 1.0)[graph.edge_writer.long()]
    run = engine(model, graph, ablation).run
    assert_close(run(BATCH, edges * node[graph.edge_writer.long()]), run(BATCH, without))


def _affine_model() -> Model:
    """A model whose writers are affine in what they read: attention patterns fixed, ReLUs always on, no norms."""
    model = random_model("plain")
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                parameter.zero_()
            if name.endswith("mlp.0.weight"):
                parameter.mul_(0.01)
            if name.endswith("mlp.0.bias"):
                parameter.add_(100)
    return model


@pytest.mark.parametrize("ablation", ["interchange", "zero", "mean-positional"])
def test_in_an_affine_model_the_gradient_is_the_exact_patch(ablation: str):
    model = _affine_model()
    graph = model.graph()
    run = engine(model, graph, ablation)
    mask = torch.ones(graph.n_edges, dtype=torch.float64)
    weights = _weights(run.run(BATCH, mask))
    gradient = outcome(run, BATCH, mask, weights, gradients="all").mask
    one_off = (1 - torch.eye(graph.n_edges, dtype=torch.float64))[:, None]
    patched = (run.run(BATCH, one_off) * weights).sum((1, 2))
    assert_close(gradient, (run.run(BATCH, mask) * weights).sum() - patched)
    queries_and_keys = (graph.reader_kind <= 1)[graph.edge_reader.long()]
    assert_close(gradient[queries_and_keys], torch.zeros(int(queries_and_keys.sum()), dtype=torch.float64))


@pytest.mark.parametrize("name", ["plain", "plain-bidirectional"])
def test_without_a_final_norm_edges_into_logits_have_exact_gradients_anywhere(name: str):
    model = tiny(name)
    graph = model.graph()
    run = engine(model, graph)
    mask = random_masks(graph)["mixed"]
    weights = _weights(run.run(BATCH, mask))
    into_logits = torch.arange(graph.n_edges)[graph.blocks[-1].edges]
    gradient = outcome(run, BATCH, mask, weights, gradients="all").mask[into_logits]
    ends = []
    for value in (1.0, 0.0):
        masks = mask.repeat(len(into_logits), 1, 1)
        masks[torch.arange(len(into_logits)), 0, into_logits] = value
        ends.append((run.run(BATCH, masks.view(len(into_logits), 1, -1)) * weights).sum((1, 2)))
    assert_close(gradient, ends[0] - ends[1])


@pytest.mark.parametrize("ablation", ["interchange", "mean-positional"])
def test_gradients_along_the_mask_path_sum_to_the_difference_of_its_ends(ablation: str):
    model = tiny("plain-norm")
    graph = model.graph()
    run = engine(model, graph, ablation)
    weights = _weights(run.run(BATCH, torch.ones(graph.n_edges)))
    nodes, shares = _gauss_legendre(48)
    total = sum(
        share * outcome(run, BATCH, torch.full((graph.n_edges,), node, dtype=torch.float64), weights).mask.sum()
        for node, share in zip(nodes, shares, strict=True)
    )
    ends = [(run.run(BATCH, torch.full((graph.n_edges,), value)) * weights).sum() for value in (1.0, 0.0)]
    assert_close(torch.as_tensor(total), ends[0] - ends[1], 1e-7)


def _gauss_legendre(n: int) -> tuple[list[float], list[float]]:
    import numpy as np

    nodes, shares = np.polynomial.legendre.leggauss(n)
    return ((nodes + 1) / 2).tolist(), (shares / 2).tolist()


def test_what_autograd_may_and_may_not_do():
    model = tiny("gpt2")
    run = engine(model).run
    mask = random_masks(model.graph())["fractional"].requires_grad_()
    first = run(BATCH, mask).sum()
    first.backward()
    assert mask.grad is not None
    once = mask.grad.clone()
    run(BATCH, mask).sum().backward()
    assert_close(mask.grad, 2 * once)  # gradients add up, as PyTorch's do
    with pytest.raises(RuntimeError):
        first.backward()  # a graph that was freed
    kept = run(BATCH, mask).sum()
    kept.backward(retain_graph=True)
    with pytest.raises(RuntimeError):
        kept.backward()  # the engine gives its memory back after one
    assert not run(BATCH, mask.detach()).requires_grad
    with torch.no_grad():
        assert not run(BATCH, mask).requires_grad
    with torch.inference_mode():
        assert_close(run(BATCH, mask).clone(), run(BATCH, mask))


def test_what_was_kept_in_inference_mode_can_be_differentiated_after_it():
    for name in ("gpt2", "llama-gqa"):
        model = tiny(name)
        mask = random_masks(model.graph())["mixed"]
        used = engine(model)
        with torch.inference_mode():
            used.full(BATCH)
            used.run(BATCH, mask)
        leaf = mask.clone().requires_grad_()
        (used.run(BATCH, leaf) * used.full(BATCH)).sum().backward()
        assert leaf.grad is not None
        assert_close(leaf.grad, outcome(engine(model), BATCH, mask, engine(model).full(BATCH)).mask)


def test_two_runs_may_be_differentiated_in_any_order():
    model = tiny("llama-gqa")
    run = engine(model)
    masks = random_masks(model.graph())
    alone = [outcome(run, BATCH, masks[kind], gradients="all").mask for kind in ("mixed", "fractional")]
    leaves = [masks[kind].clone().requires_grad_() for kind in ("mixed", "fractional")]
    weights = _weights(run.run(BATCH, masks["mixed"]))
    weights = torch.randn(weights.shape, generator=torch.Generator().manual_seed(6), dtype=weights.dtype)
    sums = [(run.run(BATCH, leaf, gradients="all") * weights).sum() for leaf in leaves]
    for total in sums:
        total.backward()
    for leaf, expected in zip(leaves, alone, strict=True):
        assert leaf.grad is not None
        assert_close(leaf.grad, expected)


def test_the_mask_may_have_another_type():
    model = tiny("gpt2")
    run = engine(model).run
    hard = random_masks(model.graph())["binary"]
    for dtype in (torch.bool, torch.int64, torch.float32, torch.bfloat16):
        assert_close(run(BATCH, hard.to(dtype)), run(BATCH, hard))
    single = random_masks(model.graph())["fractional"].float().requires_grad_()
    run(BATCH, single).sum().backward()
    assert single.grad is not None and single.grad.dtype == torch.float32
