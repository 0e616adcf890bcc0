"""The frozen model once more, by autograd: every write is a leaf, every norm scale and pattern a constant."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgewise.models import Model, Norm
from edgewise.transcoders import Transcoder


def norm_of(norm: Norm, x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A norm whose scale is a constant: its own, or a given one; and the scale."""
    if norm.kind == "none":
        return x, x.new_ones(len(x), 1)
    x = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    if scale is None:
        scale = ((x.square().mean(-1, keepdim=True) + norm.eps) ** -0.5).detach()
    y = x * scale * (1.0 if norm.gain is None else norm.gain)
    return y if norm.bias is None else y + norm.bias, scale


def heads_normed(norm: Any, x: Tensor) -> Tensor:
    """A norm of each head's queries or keys, or of all heads' together."""
    if not isinstance(norm, Norm):
        return x if norm is None else norm(x)
    together = x.transpose(0, 1).flatten(1)  # (S, H k)
    return norm_of(norm, together)[0].view(x.shape[1], len(x), -1).transpose(0, 1)


class Frozen:
    """A prompt's run with leaves: `tokens` (each embedding term), `written[layer]` (nodes' values), `errors[layer]`."""

    def __init__(
        self, model: Model, ids: Tensor, transcoders: dict[int, Transcoder] | None, gate: str = "half"
    ) -> None:
        parts, n = model.parts, len(ids)
        positions = torch.arange(n)
        self.tokens = [term.detach().clone().requires_grad_() for term in parts.embed(ids, positions)]
        self.values, self.written, self.errors = [], [], []
        x = torch.stack(self.tokens).sum(0)
        pending: dict[int, Tensor] = {}
        for number, layer in enumerate(parts.layers):
            own = layer.attention
            y, _ = norm_of(own.norm, x)
            query, key, value = (
                torch.einsum("sd,hdk->hsk", y, heads.weight) + (0 if heads.bias is None else heads.bias[:, None])
                for heads in (own.query, own.key, own.value)
            )
            query, key = heads_normed(own.query_norm, query), heads_normed(own.key_norm, key)
            if own.rotate is not None and own.rotary is not None:
                query, key = (each[0] for each in own.rotate(query[None], key[None], *own.rotary(y, positions[None])))
            group = len(query) // len(key)
            scores = query @ key.repeat_interleave(group, 0).transpose(1, 2) * own.scale
            if own.softcap is not None:
                scores = own.softcap * torch.tanh(scores / own.softcap)
            back = positions[:, None] - positions
            seen = torch.ones(n, n, dtype=torch.bool) if not own.causal else back >= 0
            seen = seen if own.window is None else seen & (back < own.window)
            scores = scores.masked_fill(~seen, -torch.inf)
            if own.sinks is not None:
                scores = torch.cat([scores, own.sinks[:, None, None].expand(-1, n, 1)], -1)
            pattern = scores.softmax(-1)[..., :n].detach()
            added = torch.einsum("hsv,hvd->sd", pattern @ value.repeat_interleave(group, 0), own.output_weight)
            added = added if own.output_bias is None else added + own.output_bias
            added = added if own.post_norm is None else norm_of(own.post_norm, added)[0]
            middle = x if parts.parallel else x + added
            y, _ = norm_of(layer.mlp.norm, middle)
            if transcoders is None:
                out = self.neurons(layer.mlp, y, gate)
            else:
                out = self.features(layer, number, y, middle, transcoders, pending)
            x = (middle + out) if not parts.parallel else x + added + out
        self.final = norm_of(parts.final_norm, x)[0]
        self.unembed: Callable[[Tensor], Tensor] = parts.unembed

    def neurons(self, mlp: Any, y: Tensor, gate: str) -> Tensor:
        if mlp.down is None:  # a mixture of experts: all that it writes is an error
            self.values.append(None)
            self.written.append(None)
            self.errors.append(mlp.run_module(y).detach().requires_grad_())
            return self.errors[-1]
        z = y @ mlp.inputs[0][0] + (0 if mlp.inputs[0][1] is None else mlp.inputs[0][1])
        secant = (mlp.activation(z) / z).detach()
        if mlp.gate is None:
            value = secant * z
        else:
            up = y @ mlp.inputs[1][0] + (0 if mlp.inputs[1][1] is None else mlp.inputs[1][1])
            through_gate, through_up = secant * z * up.detach(), mlp.activation(z).detach() * up
            value = {"half": (through_gate + through_up) / 2, "gate": through_gate, "up": through_up}[gate]
        self.values.append(value)
        self.written.append(value.detach().clone().requires_grad_())
        raw = self.written[-1] @ mlp.down + (0 if mlp.down_bias is None else mlp.down_bias)
        out = raw if mlp.post_norm is None else norm_of(mlp.post_norm, raw)[0]
        self.errors.append(torch.zeros_like(out, requires_grad=True))
        return out + self.errors[-1]

    def features(
        self, layer: Any, number: int, y: Tensor, middle: Tensor, transcoders: dict[int, Transcoder], pending: Any
    ) -> Tensor:
        true = layer.mlp.module(y)
        if layer.mlp.post_norm is not None:
            true = norm_of(layer.mlp.post_norm, true)[0]
        own = transcoders.get(number)
        out = torch.zeros_like(middle)
        if own is None:
            self.values.append(None)
            self.written.append(None)
        else:
            site = own.spec.reads
            bare = y
            if site.kind == "mlp_normalized":
                bare = norm_of(layer.mlp.norm.bare(), middle)[0]
            read = middle if site.kind == "resid_mid" else bare
            read = read - read.mean(-1, keepdim=True) if site.centred else read
            pre = (read if own.b_in is None else read - own.b_in.detach()) @ own.W_enc.detach().T + own.b_enc.detach()
            on = own.encode(read).detach() != 0
            if own.spec.exclude_special:
                on[0] = False
            self.values.append(pre)
            self.written.append((pre * on).detach().clone().requires_grad_())
            rows = own.W_dec.detach().view(own.n_features, len(own.spec.writes), -1)
            for place, where in enumerate(own.spec.writes):
                pending[where.layer] = pending.get(where.layer, 0) + self.written[-1] @ rows[:, place]
            constant = own.b_dec.detach() + (0 if own.W_skip is None else read @ own.W_skip.detach().T)
            stands = torch.ones(len(middle), 1, dtype=middle.dtype)
            stands[0] = 0.0 if own.spec.exclude_special else 1.0
            out = out + constant * stands
        out = out + pending.get(number, 0)
        self.errors.append((true - out).detach().requires_grad_())
        return out + self.errors[-1]

    def edges(self, target: Tensor) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
        """Value times gradient of every leaf: of the tokens, nodes, and errors (added up over the width)."""
        leaves = [*self.tokens, *(each for each in self.written if each is not None), *self.errors]
        grads = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
        found = [torch.zeros_like(x) if g is None else x.detach() * g for x, g in zip(leaves, grads, strict=True)]
        tokens = [each.sum(1) for each in found[: len(self.tokens)]]
        inner = iter(found[len(self.tokens) : len(found) - len(self.errors)])
        nodes = [None if each is None else next(inner) for each in self.written]
        return tokens, nodes, [each.sum(1) for each in found[len(found) - len(self.errors) :]]
