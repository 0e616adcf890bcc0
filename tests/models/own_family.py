"""A family that nobody else has: a small transformer with every twist, and what edgewise must be told of it.

Norms of gain `1 + w`, also after attention and MLP and on queries and keys; rotary by layer; soft-cap; windows.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from edgewise.models import Attention, Heads, Layer, Mlp, Norm, Parts, frozen_linear, output_heads

HEADS, KEYS, WIDTH, D_MODEL, SOFTCAP = 4, 2, 8, 24, 4.0


class TwistedNorm(nn.Module):  # eps is large: with three norms in a row, derivatives at 0 go as its power of −3/2
    def __init__(self, width: int = D_MODEL) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(width)), 0.05

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * (1 + self.weight)


class TwistedLayer(nn.Module):
    def __init__(self, base: float, window: int) -> None:
        super().__init__()
        self.base, self.window = base, window
        self.before, self.after, self.mlp_before, self.mlp_after = (TwistedNorm() for _ in range(4))
        self.query_norm, self.key_norm = TwistedNorm(WIDTH), TwistedNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(D_MODEL, n * WIDTH, bias=False) for n in (HEADS, KEYS, KEYS))
        self.output = nn.Linear(HEADS * WIDTH, D_MODEL, bias=False)
        self.mlp = nn.Sequential(nn.Linear(D_MODEL, 30), nn.GELU(), nn.Linear(30, D_MODEL))

    def angles(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[B, S, WIDTH / 2]` of positions, in this layer's base."""
        angles = positions[..., None] * self.base ** -torch.linspace(0, 1, WIDTH // 2).to(like)
        return angles.cos(), angles.sin()

    def forward(self, x: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        y = self.before(x)
        projections = self.query(y), self.key(y), self.value(y)
        query, key, value = (p.unflatten(-1, (-1, WIDTH)).transpose(1, 2) for p in projections)  # (B, H, S, k)
        query, key = rotate(self.query_norm(query), self.key_norm(key), *self.angles(x, positions))
        key, value = (t.repeat_interleave(HEADS // KEYS, 1) for t in (key, value))
        distance = positions[:, None, :, None] - positions[:, None, None, :]
        seen = (distance == 0) | ((distance > 0) & (distance < self.window) & mask[:, None, None, :])
        logits = (query @ key.transpose(2, 3) / WIDTH**0.5 / SOFTCAP).tanh() * SOFTCAP
        mixed = logits.masked_fill(~seen, -torch.inf).softmax(-1) @ value
        x = x + self.after(self.output(mixed.transpose(1, 2).flatten(2)))
        return x + self.mlp_after(self.mlp(self.mlp_before(x)))


def rotate(query: Tensor, key: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each pair of coordinates (i, i + half) of queries and keys `[B, H, S, k]` by its angle."""

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * cosines[:, None] - b * sines[:, None], b * cosines[:, None] + a * sines[:, None]], -1)

    return turned(query), turned(key)


class TwistedModel(nn.Module):
    def __init__(self, vocab_size: int = 50) -> None:
        super().__init__()
        heads = {"num_attention_heads": HEADS, "num_key_value_heads": KEYS}
        self.config = SimpleNamespace(model_type="twisted", vocab_size=vocab_size, **heads)
        self.tokens = nn.Embedding(vocab_size, D_MODEL)
        self.layers = nn.ModuleList(TwistedLayer(base, window) for base, window in ((100.0, 3), (7.0, 64), (30.0, 2)))
        self.norm, self.unembed = TwistedNorm(), nn.Linear(D_MODEL, vocab_size)

    def hidden(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        x = self.tokens(ids)
        for layer in self.layers:
            x = layer(x, mask, positions)
        return self.norm(x)

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None) -> SimpleNamespace:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions = torch.arange(input_ids.shape[1]).expand_as(input_ids) if position_ids is None else position_ids
        return SimpleNamespace(logits=self.unembed(self.hidden(input_ids, mask.bool(), positions)))


def twisted_parts(model: Any) -> Parts:
    """All that edgewise is told: where the parts of a `TwistedModel` are."""
    return Parts(
        layers=tuple(Layer(_attention(layer), _mlp(layer)) for layer in model.layers),
        embed=lambda ids, positions: (model.tokens(ids),),
        final_norm=Norm.rms(model.norm, plus_one=True),
        unembed=frozen_linear(model.unembed),
        hidden=model.hidden,
        modules=(model,),
    )


def _attention(layer: Any) -> Attention:
    return Attention(
        Norm.rms(layer.before, plus_one=True),
        Heads.linear(layer.query, HEADS),
        Heads.linear(layer.key, KEYS),
        Heads.linear(layer.value, KEYS),
        output_heads(layer.output, HEADS),
        output_bias=None,
        scale=WIDTH**-0.5,
        window=layer.window,
        query_norm=layer.query_norm,
        key_norm=layer.key_norm,
        rotate=rotate,
        rotary=layer.angles,
        softcap=SOFTCAP,
        post_norm=Norm.rms(layer.after, plus_one=True),
    )


def _mlp(layer: Any) -> Mlp:
    up, activation, down = layer.mlp
    norm, post_norm = (Norm.rms(module, plus_one=True) for module in (layer.mlp_before, layer.mlp_after))
    return Mlp.linear(norm, layer.mlp, up, down, activation, post_norm=post_norm)
