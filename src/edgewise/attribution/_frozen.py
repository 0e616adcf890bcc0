"""One prompt's run with everything frozen that would make the model nonlinear: attention patterns and norm scales.

What is left is linear in what the nodes write. So a covector (a linear function of the residual stream at each
position) is carried down a layer by the transpose of what carries a change of the stream up one. Both ways are here;
what a layer computes is `edgewise.models.block`'s.

A layer's stream has three places: `before` its attention, `between` attention and MLP (in a parallel block the same as
`before`), and after it, which is `before` the next.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Attention, Layer, Mlp, Model, Norm
from edgewise.models.block import (
    AttentionContext,
    attention_contexts,
    centre,
    hidden,
    inverse_rms,
    linear,
    normed,
    pattern_logits,
    placed,
    project,
    write_heads,
)

KEPT_BYTES = 1 << 30
"""How much a run keeps of attention patterns; those of longer prompts are made again whenever a layer is passed."""


class FrozenNorm(NamedTuple):
    """A norm with its scale fixed: `gain · P x · inverse`, where P takes the mean off for a layer norm. Its bias is no
    part of it.
    """

    norm: Norm
    inverse: Float[Tensor, " S"]

    @staticmethod
    def of(norm: Norm, x: Float[Tensor, "S D"]) -> "FrozenNorm":
        """As it stands at an input."""
        return FrozenNorm(norm, inverse_rms(norm, centre(x) if norm.kind == "layer" else x))

    def forward(self, change: Float[Tensor, "T K D"]) -> Float[Tensor, "T K D"]:
        """From a change of the input at the first T positions to that of the output."""
        return self._scaled(centre(change) if self.norm.kind == "layer" else change)

    def back(self, covector: Float[Tensor, "T K D"]) -> Float[Tensor, "T K D"]:
        """From a covector of the output at the first T positions to that of the input."""
        back = self._scaled(covector)
        return centre(back) if self.norm.kind == "layer" else back

    def at(self, positions: Int[Tensor, " n"]) -> "FrozenNorm":
        """The same for other rows: those of some positions."""
        return FrozenNorm(self.norm, self.inverse[positions])

    def _scaled(self, x: Tensor) -> Tensor:
        if self.norm.kind == "none":
            return x
        x = x * self.inverse[: len(x), None, None]
        return x if self.norm.gain is None else x * self.norm.gain.to(x.dtype)


class FrozenPattern(NamedTuple):
    """A layer's attention pattern."""

    attention: Attention
    context: AttentionContext
    query: Float[Tensor, "H S k"]
    """Placed: normed and rotated."""
    key: Float[Tensor, "K S k"]
    kept: Float[Tensor, "H S S"] | None = None

    def first(self, n: int) -> Float[Tensor, "H n n"]:
        """How much each of the first n queries takes of each key; rows add up to less than 1 where there is a sink."""
        if self.kept is not None:
            return self.kept[:, :n, :n]
        bare = replace(self.attention, query_norm=None, key_norm=None, rotate=None)  # they are placed already
        key = self.key[:, :n].repeat_interleave(len(self.query) // len(self.key), 0)
        allowed = self.context.allowed
        context = AttentionContext(None, None if allowed is None else allowed[..., :n, :n])
        return pattern_logits(bare, self.query[None, :, :n], key[None], context)[0].softmax(-1)[..., :n]


@dataclass(frozen=True, eq=False)
class FrozenLayer:
    """One layer's part of a run."""

    layer: Layer
    before: Float[Tensor, "S D"]
    between: Float[Tensor, "S D"]
    pattern: FrozenPattern
    attention_norm: FrozenNorm
    attention_scale: Float[Tensor, " S"] | None
    """What attention's post-norm multiplies by, its gain aside; None without one."""
    mlp_norm: FrozenNorm
    mlp_post_norm: FrozenNorm | None
    mlp_written: Float[Tensor, "S D"]
    """What the MLP adds to the stream."""

    @property
    def groups(self) -> int:
        """How many query heads share a key and value head."""
        return len(self.pattern.query) // len(self.pattern.key)

    def mixed_back(self, covector: Float[Tensor, "T K D"]) -> Float[Tensor, "H T K v"]:
        """From a covector of the stream after attention to those of each head's mixed values."""
        output = self.layer.attention.output.to(covector.dtype)  # (H, v, D)
        if self.attention_scale is not None:
            covector = covector * self.attention_scale[: len(covector), None, None]
        mixed = covector.flatten(0, 1) @ output.flatten(0, 1).T  # (T K, H v)
        return mixed.view(*covector.shape[:2], *output.shape[:2]).permute(2, 0, 1, 3)

    def values_back(self, mixed: Float[Tensor, "H T K v"]) -> Float[Tensor, "T K D"]:
        """From covectors of the heads' mixed values to that of the stream before attention."""
        heads, length, n, width = mixed.shape
        values = torch.bmm(self.pattern.first(length).transpose(1, 2), mixed.reshape(heads, length, n * width))
        values = values.view(-1, self.groups, length, n, width).sum(1).permute(1, 2, 0, 3)  # (T, K, kv heads, v)
        weight = self.layer.attention.value.weight.to(mixed.dtype)  # (kv heads, D, v)
        back = values.reshape(length * n, -1) @ weight.transpose(1, 2).flatten(0, 1)
        return self.attention_norm.back(back.view(length, n, -1))

    def attention_back(self, covector: Float[Tensor, "T K D"]) -> Float[Tensor, "T K D"]:
        """The part of a covector that goes through attention, from the stream after it to the stream before."""
        return self.values_back(self.mixed_back(covector))

    def values_forward(self, change: Float[Tensor, "T K D"]) -> Float[Tensor, "G T K v"]:
        """From a change of the stream before attention to those of the G key and value heads' values."""
        length, n = change.shape[:2]
        weight = self.layer.attention.value.weight.to(change.dtype)  # (G, D, v)
        values = self.attention_norm.forward(change).flatten(0, 1) @ weight.transpose(0, 1).flatten(1)
        return values.view(length, n, len(weight), -1).permute(2, 0, 1, 3)

    def mixed_forward(self, values: Float[Tensor, "G T K v"]) -> Float[Tensor, "H T K v"]:
        """From changes of the values to those of the heads' mixed values."""
        _, length, n, width = values.shape
        values = values.reshape(len(values), length, n * width).repeat_interleave(self.groups, 0)
        return torch.bmm(self.pattern.first(length), values).view(-1, length, n, width)

    def write(self, mixed: Float[Tensor, "H T K v"]) -> Float[Tensor, "T K D"]:
        """From a change of the heads' mixed values to that of the stream after attention."""
        written = torch.einsum("hskv,hvd->skd", mixed, self.layer.attention.output.to(mixed.dtype))
        return written if self.attention_scale is None else written * self.attention_scale[: len(written), None, None]

    def attention_biases(self) -> Float[Tensor, "S D"]:
        """What attention adds to the stream whatever it reads: the norm's and the values' biases, mixed, and b_O."""
        attention, total = self.layer.attention, torch.zeros_like(self.before)
        bias = None if attention.value.bias is None else attention.value.bias.to(total)  # (kv heads, v)
        if attention.norm.bias is not None:
            carried = torch.einsum("d,hdv->hv", attention.norm.bias.to(total), attention.value.weight.to(total))
            bias = carried if bias is None else bias + carried
        if bias is not None:
            taken = self.pattern.first(len(total)).sum(2)  # (H, S)
            mixed = taken[..., None] * bias.repeat_interleave(self.groups, 0)[:, None]  # (H, S, v)
            total = total + self.write(mixed[:, :, None])[:, 0]
        return total if attention.output_bias is None else total + attention.output_bias.to(total)

    def mlp_output_back(self, covector: Float[Tensor, "T K D"]) -> Float[Tensor, "T K D"]:
        """From a covector of the stream after the MLP to that of what the MLP gives before any post-norm."""
        return covector if self.mlp_post_norm is None else self.mlp_post_norm.back(covector)

    def neurons(self) -> tuple[list[Float[Tensor, "S F"]], Float[Tensor, "S F"]]:
        """The MLP's pre-activations, the gate's first if there is one, and its hidden activations."""
        mlp = self.layer.mlp
        return _neurons(mlp, normed(mlp.norm, self.between))


@dataclass(frozen=True, eq=False)
class FrozenRun:
    """A prompt's run."""

    model: Model
    ids: Int[Tensor, " S"]
    embeddings: tuple[Float[Tensor, "S D"], ...]
    """Of tokens, and of positions where they are learned."""
    layers: tuple[FrozenLayer, ...]
    final: Float[Tensor, "S D"]
    """The stream after the last layer."""
    final_norm: FrozenNorm

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def attention_biases(self) -> tuple[Float[Tensor, "S D"], ...]:
        """By layer; see `FrozenLayer.attention_biases`."""
        return tuple(ran.attention_biases() for ran in self.layers)

    def normed(self, position: int) -> Float[Tensor, " D"]:
        """What the unembedding reads at a position."""
        return normed(self.final_norm.norm, self.final[position])

    def logits(self, position: int = -1) -> Float[Tensor, " V"]:
        """The next token's at a position."""
        return self.model.parts.unembed(self.normed(position)[None])[0].to(self.final.dtype)


@torch.no_grad()
def frozen_run(model: Model, ids: Int[Tensor, " S"], dtype: torch.dtype | None = None) -> FrozenRun:
    """Run one prompt and keep what its attribution graph needs.

    Args:
        model: the model.
        ids: the prompt's tokens, on the model's device.
        dtype: of all activations and sums, float32 or float64; None: the weights', and at least float32.

    Raises:
        InputError: another type, in which edges would not add up, or the model is not as it was loaded.
    """
    model.check()
    if dtype not in (None, torch.float32, torch.float64):
        raise InputError(f"dtype {dtype}: edges would not add up in it; give float32 or float64, or leave it out")
    parts = model.parts
    dtype = dtype or torch.promote_types(model.dtype, torch.float32)
    positions = torch.arange(len(ids), device=ids.device)
    embeddings = tuple(term.detach().to(dtype) for term in parts.embed(ids, positions))
    stream = torch.stack(embeddings).sum(0)
    layers, left = list[FrozenLayer](), KEPT_BYTES
    for layer, context in zip(parts.layers, attention_contexts(parts, positions[None], None), strict=True):
        pattern = _pattern(layer.attention, context, stream)
        size = len(pattern.query) * len(ids) ** 2 * stream.element_size()
        if size <= left:
            left, pattern = left - size, pattern._replace(kept=pattern.first(len(ids)))
        ran, stream = _run_layer(layer, pattern, stream, parallel=parts.parallel)
        layers.append(ran)
    return FrozenRun(model, ids, embeddings, tuple(layers), stream, FrozenNorm.of(parts.final_norm, stream))


def _pattern(attention: Attention, context: AttentionContext, before: Float[Tensor, "S D"]) -> FrozenPattern:
    y = normed(attention.norm, before)
    query, key = project(y, attention.query), project(y, attention.key)
    query, key = placed(attention, query[None], key[None], rotary_as(y, context))
    return FrozenPattern(attention, context, query[0].to(y.dtype), key[0].to(y.dtype))


def rotary_as(like: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor] | None:
    """A layer's rotation, if it has one, in the type of what is rotated."""
    return None if context.rotary is None else (context.rotary[0].to(like.dtype), context.rotary[1].to(like.dtype))


def _run_layer(
    layer: Layer, pattern: FrozenPattern, before: Float[Tensor, "S D"], *, parallel: bool
) -> tuple[FrozenLayer, Float[Tensor, "S D"]]:
    """One layer, and the stream after it."""
    attention, mlp = layer.attention, layer.mlp
    value = project(normed(attention.norm, before), attention.value)  # (kv heads, S, v)
    mixed = pattern.first(len(before)) @ value.repeat_interleave(len(pattern.query) // len(pattern.key), 0)
    scale = None
    if attention.post_norm is not None:
        scale = inverse_rms(attention.post_norm, torch.einsum("hsv,hvd->sd", mixed, attention.output_weight.to(mixed)))
        mixed = mixed * scale[:, None]
    after = before + write_heads(attention, mixed.transpose(0, 1))
    between = before if parallel else after
    y = normed(mlp.norm, between)
    raw = mlp.run_module(y) if mlp.down is None else linear(_neurons(mlp, y)[1], mlp.down, mlp.down_bias)
    post_norm = None if mlp.post_norm is None else FrozenNorm.of(mlp.post_norm, raw)
    written = raw if mlp.post_norm is None else normed(mlp.post_norm, raw)
    norms = FrozenNorm.of(attention.norm, before), scale, FrozenNorm.of(mlp.norm, between), post_norm
    return FrozenLayer(layer, before, between, pattern, *norms, written), after + written


def _neurons(mlp: Mlp, y: Float[Tensor, "S D"]) -> tuple[list[Float[Tensor, "S F"]], Float[Tensor, "S F"]]:
    projected = [linear(y, weight, bias) for weight, bias in mlp.inputs]
    return projected, hidden(mlp, projected)
