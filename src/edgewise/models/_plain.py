"""A small transformer of our own shape, for compiled programs and toy studies: bidirectional if asked, with or without
norms.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.models._parts import Attention, Heads, Layer, Mlp, Norm, Parts, detach, frozen_linear, output_heads


@dataclass(frozen=True)
class PlainConfig:
    """The shape of a `PlainTransformer`."""

    vocab_size: int
    n_positions: int
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_out: int | None = None
    """Width of the output; None for `vocab_size`."""
    causal: bool = True
    norm: Literal["none", "layer"] = "none"
    activation: Literal["relu", "gelu"] = "relu"


class PlainTransformer(nn.Module):
    """Attention and MLP blocks on a residual stream, token and position embeddings, an affine readout; nothing else.

    Raises:
        InputError: (on a call) a token or position is outside the model's range.
    """

    def __init__(self, config: PlainConfig) -> None:
        """Make a model with PyTorch's default initialisation."""
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.n_positions, config.d_model)
        self.blocks = nn.ModuleList([_Block(config) for _ in range(config.n_layers)])
        self.final_norm = _norm(config)
        self.unembed = nn.Linear(config.d_model, config.d_out or config.vocab_size)

    def forward(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Shaped[Tensor, "B S"] | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
    ) -> SimpleNamespace:
        """Run the model; `.logits` is `[B, S, d_out]`."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        return SimpleNamespace(logits=self.unembed(self.hidden(input_ids, mask, position_ids)))

    def hidden(
        self, ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"], positions: Int[Tensor, "B S"]
    ) -> Float[Tensor, "B S D"]:
        """The residual stream after the final norm."""
        if positions.max() >= self.config.n_positions:
            raise InputError(
                f"prompt of {int(positions.max()) + 1} tokens: the model has {self.config.n_positions} positions"
            )
        allowed = mask[:, None, None, :] | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        if self.config.causal:
            allowed = allowed & torch.ones_like(allowed[0, 0]).tril()
        x = self.tokens(ids) + self.positions(positions)  # (B, S, D)
        for block in self.blocks:
            assert isinstance(block, _Block)
            x = x + block.attend(x, allowed)
            x = x + block.mlp(block.mlp_norm(x))
        return self.final_norm(x)


class _Block(nn.Module):
    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        width = config.n_heads * config.d_head
        self.attention_norm, self.mlp_norm = _norm(config), _norm(config)
        self.query, self.key, self.value = (nn.Linear(config.d_model, width) for _ in range(3))
        self.output = nn.Linear(width, config.d_model)
        activation = {"relu": nn.ReLU, "gelu": nn.GELU}[config.activation]()
        self.mlp = nn.Sequential(
            nn.Linear(config.d_model, config.d_mlp), activation, nn.Linear(config.d_mlp, config.d_model)
        )

    def attend(self, x: Float[Tensor, "B S D"], allowed: Bool[Tensor, "..."]) -> Float[Tensor, "B S D"]:
        normed = self.attention_norm(x)
        query, key, value = (
            project(normed).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, S, d_head)
            for project in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, allowed)
        return self.output(mixed.transpose(1, 2).flatten(-2))


def _norm(config: PlainConfig) -> nn.Module:
    return nn.Identity() if config.norm == "none" else nn.LayerNorm(config.d_model)


def parts(module: PlainTransformer) -> Parts:
    """The parts of a `PlainTransformer`."""
    config = module.config

    def norm(inner: nn.Module) -> Norm:
        return Norm.layer(inner) if isinstance(inner, nn.LayerNorm) else Norm.none()

    def layer(block: Any) -> Layer:
        up, activation, down = block.mlp
        attention = Attention(
            norm(block.attention_norm),
            Heads.linear(block.query, config.n_heads),
            Heads.linear(block.key, config.n_heads),
            Heads.linear(block.value, config.n_heads),
            output_heads(block.output, config.n_heads),
            detach(block.output.bias),
            scale=config.d_head**-0.5,
            causal=config.causal,
        )
        return Layer(attention, Mlp.linear(norm(block.mlp_norm), block.mlp, up, down, activation))

    return Parts(
        layers=tuple(layer(block) for block in module.blocks),
        embed=lambda ids, positions: (module.tokens(ids), module.positions(positions)),
        final_norm=norm(module.final_norm),
        unembed=frozen_linear(module.unembed),
        hidden=module.hidden,
        n_embeddings=2,
        n_positions=config.n_positions,
        modules=(module,),
    )
