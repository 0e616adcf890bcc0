"""The frozen model once more, by hooks and dense autograd on the user's own module: what flows into one target.

Attention patterns, norm scales, the activations' secants and half of every gated product are constants. What tokens and
neurons write are leaves; an edge is a leaf's value times the target's gradient there, and their sum is the target.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from tests.discovery.hooks import Layout, _frozen_norm, _relevance_hooks, removed

FROZEN = "frozen_pattern"


def _frozen_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    pattern = (scores if mask is None else scores + mask[..., : key.shape[2]]).softmax(-1).detach()
    return (pattern @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(FROZEN, _frozen_attention)
AttentionMaskInterface.register(FROZEN, eager_mask)


class FrozenByHooks:
    """One prompt's run: `logits [S, V]`, `tokens [S, D]`, and each layer's neurons, targets and leaves `[S, F]`."""

    def __init__(self, module: Any, layout: Layout, ids: Tensor) -> None:
        self.targets, self.leaves = list[Tensor](), list[Tensor]()
        self.tokens = torch.zeros(0)
        before = module.config._attn_implementation
        module.set_attn_implementation(FROZEN)
        try:
            with removed(self._hooks(module, layout)):
                self.logits = module(input_ids=ids[None]).logits[0]
        finally:
            module.set_attn_implementation(before)

    def edges(self, target: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What flows into a target, a number of this run: of each token `[S]`, of each neuron `[S, F]` by layer."""
        leaves = [self.tokens, *self.leaves]
        grads = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
        found = [torch.zeros_like(x) if g is None else x * g for x, g in zip(leaves, grads, strict=True)]
        return found[0].detach().sum(-1), [each.detach() for each in found[1:]]

    def _hooks(self, module: Any, layout: Layout) -> list[Any]:
        def token(_module, _inputs, output):
            self.tokens = output[0].detach().clone().requires_grad_()
            return self.tokens[None]

        def cut(value: Tensor) -> Tensor:
            self.targets.append(value[0])
            self.leaves.append(value[0].detach().clone().requires_grad_())
            return self.leaves[-1][None]

        (name,) = layout.embeddings
        handles = [module.get_submodule(name).register_forward_hook(token), *_relevance_hooks(module, layout)]
        for layer in module.get_submodule(layout.layers):
            norm = layer.get_submodule(layout.norms[0])
            handles += [norm.register_forward_hook(lambda norm, inputs, _o: _frozen_norm(norm, inputs[0]))]
            if layout.gate:
                down = layer.get_submodule(layout.gate[1])
                handles += [down.register_forward_pre_hook(lambda _m, inputs: (cut(inputs[0]),))]
            else:
                act = layer.get_submodule(layout.activation)
                handles += [act.register_forward_hook(lambda _m, _i, output: cut(output))]
        return handles


def influence(weights: Tensor, roots: Tensor) -> Tensor:
    """What of the roots' weights reaches each node through all paths of normalised edges, by one dense solve.

    Args:
        weights: of every edge, targets by sources, `[n, n]`, without biases.
        roots: of every node, `[n]`.
    """
    sizes = weights.double().abs()
    shares = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-300)
    unit = torch.eye(len(shares), dtype=torch.float64)
    return torch.linalg.solve((unit - shares).T, shares.T @ roots.double())


def replacement_and_completeness(weights: Tensor, roots: Tensor, tokens: Tensor, errors: Tensor) -> tuple[float, float]:
    """The published scores, from dense weights without biases; which nodes are tokens, and which errors."""
    found = influence(weights, roots)
    sizes = weights.double().abs()
    shares = sizes / sizes.sum(1, keepdim=True).clamp(min=1e-300)
    begun, lost = float(found[tokens].sum()), float(found[errors].sum())
    mass = found + roots
    whole = 1 - shares[:, errors].sum(1)
    return begun / (begun + lost), float((mass * whole).sum() / mass.sum())
