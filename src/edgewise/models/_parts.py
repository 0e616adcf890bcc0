"""The parts of a transformer that the engine runs: weights as detached views, and the user's own modules.

A family's adapter (one short file each) says where these live in a `transformers` module. Nothing here copies a weight
or sets a flag: a detached view shares the parameter's storage, so the user's module stays untouched and stays the one
source of truth. What a layer computes from them is in `block.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from edgewise._errors import InputError

Rotary = tuple[Float[Tensor, "B S rotary"], Float[Tensor, "B S rotary"]]
"""Cosines and sines of a batch's positions."""

Routing = Literal["frozen", "differentiated"]
"""Whether how much a token takes of each of its experts is a constant of the backward. Which they are always is."""


@dataclass(frozen=True)
class Norm:
    """A reader's norm: `gain * scale(x) + bias`, where `scale` divides by the root mean square of `x` (centred first
    for a layer norm). `edgewise.models.block.normed` is the formula.
    """

    kind: Literal["layer", "rms", "none"]
    module: Callable[[Tensor], Tensor]
    """The user's own norm, which the reference path calls; the formula is checked against it when a model is loaded."""
    weight: Float[Tensor, " D"] | None = None
    bias: Float[Tensor, " D"] | None = None
    eps: float = 0.0
    plus_one: bool = False
    """The gain is `1 + weight` (Gemma)."""

    @property
    def gain(self) -> Float[Tensor, " D"] | None:
        """What the scaled input is multiplied by; `1 + weight` in at least float32."""
        if self.weight is None or not self.plus_one:
            return self.weight
        return 1 + self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))

    def bare(self) -> "Norm":
        """The same without gain and bias."""
        return replace(self, weight=None, bias=None)

    @staticmethod
    def layer(module: nn.LayerNorm) -> "Norm":
        """A `torch.nn.LayerNorm`."""
        return Norm("layer", module, detach(module.weight), detach(module.bias), module.eps)

    @staticmethod
    def rms(module: Any, *, plus_one: bool = False) -> "Norm":
        """An RMS norm as `transformers` writes it: a `weight`, and a `variance_epsilon` or `eps`."""
        eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
        eps = torch.finfo(module.weight.dtype).eps if eps is None else eps  # as `torch.nn.RMSNorm` has it
        return Norm("rms", module, detach(module.weight), None, float(eps), plus_one)

    @staticmethod
    def none() -> "Norm":
        """No norm at all, as in compiled programs."""
        return Norm("none", nn.Identity())


@dataclass(frozen=True)
class Heads:
    """A layer's query, key or value projection, one matrix per head."""

    weight: Float[Tensor, "n D k"]
    bias: Float[Tensor, "n k"] | None = None

    @staticmethod
    def linear(module: nn.Linear, n: int) -> "Heads":
        """The `n` heads of a `torch.nn.Linear` whose output lists them one after the other."""
        d_model = module.in_features
        weight = module.weight.detach().view(n, -1, d_model).transpose(1, 2)  # (n, D, k)
        return Heads(weight, None if module.bias is None else module.bias.detach().view(n, -1))

    def repeated(self, n: int) -> "Heads":
        """The same heads, each given `n` times in a row (key and value heads expanded to their query heads)."""
        if n == 1:
            return self
        bias = None if self.bias is None else self.bias.repeat_interleave(n, 0)
        return Heads(self.weight.repeat_interleave(n, 0), bias)


@dataclass(frozen=True)
class Attention:
    """One layer's attention; `edgewise.models.block` has its formulas."""

    norm: Norm
    query: Heads
    key: Heads
    value: Heads
    output_weight: Float[Tensor, "H v D"]
    """W_O as it is stored, one matrix per query head."""
    output_bias: Float[Tensor, " D"] | None
    """b_O: always on, never masked, since no single head owns it."""
    scale: float
    causal: bool = True
    window: int | None = None
    """How many positions back (the own one included) a query sees; None for all."""
    query_norm: Callable[[Tensor], Tensor] | Norm | None = None
    """Of each head's queries; a `Norm` is an RMS norm of all heads' at once, side by side (OLMo 2)."""
    key_norm: Callable[[Tensor], Tensor] | Norm | None = None
    rotate: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """The family's own rotary function of (query, key, cosines, sines)."""
    rotary: Callable[[Tensor, Int[Tensor, "B S"]], Rotary] | None = None
    """From a tensor of the type and device wanted, and positions, to this layer's cosines and sines. Layers that share
    one function share its result."""
    softcap: float | None = None
    """c, where the softmax is taken of `c tanh(logits / c)`."""
    sinks: Float[Tensor, " H"] | None = None
    """One more logit for each head, of a key that every query sees and whose value is zero."""
    post_norm: Norm | None = None
    """An RMS norm of what all heads write together. Its scale is one number per token, so heads' coefficients carry it
    and `output` its gain."""

    def __post_init__(self) -> None:
        """Refuse what has no such form. Raises `InputError`."""
        if self.post_norm is not None and (self.post_norm.kind != "rms" or self.output_bias is not None):
            raise InputError(
                "model: its attention has a post-norm that is no RMS norm, or an output bias before it; expected an "
                "RMS norm and no output bias"
            )

    def projections(self, repeats: int = 1) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values, keys and values given `repeats` times each."""
        return self.query, self.key.repeated(repeats), self.value.repeated(repeats)

    @property
    def joint(self) -> bool:
        """Whether a norm is of all heads' queries or keys at once, so that they must be placed together."""
        return isinstance(self.query_norm, Norm) or isinstance(self.key_norm, Norm)

    @property
    def coupled(self) -> bool:
        """Whether what one head reads changes what the others write."""
        return self.joint or self.post_norm is not None

    @property
    def output(self) -> Float[Tensor, "H v D"]:
        """What takes the heads' coefficients to the residual stream: W_O; with a post-norm's gain, then in at least
        float32. Made anew each time, so that it follows the user's weights.
        """
        if self.post_norm is None or self.post_norm.gain is None:
            return self.output_weight
        return self.output_weight.to(torch.promote_types(self.output_weight.dtype, torch.float32)) * self.post_norm.gain


@dataclass(frozen=True)
class Mlp:
    """One layer's MLP: `down(act(x W_gate) * (x W_up))`, or `down(act(x W_up))` without a gate; without `up`, `module`
    as it is (a mixture of experts, say), differentiated by autograd.
    """

    norm: Norm
    module: Callable[[Tensor], Tensor]
    """The user's own MLP, of `[..., D]`, which the reference path calls."""
    up: Float[Tensor, "D F"] | None = None
    up_bias: Float[Tensor, " F"] | None = None
    down: Float[Tensor, "F D"] | None = None
    down_bias: Float[Tensor, " D"] | None = None
    activation: Callable[[Tensor], Tensor] | None = None
    gate: Float[Tensor, "D F"] | None = None
    gate_bias: Float[Tensor, " F"] | None = None
    post_norm: Norm | None = None
    """Of what the MLP writes."""
    routing: Routing | None = None
    """Of a mixture of experts whose module has a `router` or a `gate`, and `experts`, as `transformers` writes them."""

    def __post_init__(self) -> None:
        """Refuse half of a formula. Raises `InputError`."""
        if (self.up is None) != (self.down is None) or (self.up is not None and self.activation is None):
            raise InputError(
                "parts: an MLP with some of up, down and activation; give all of them, or its module alone"
            )

    def run_module(self, y: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        """The module's output, before a post-norm; in its weights' own type inside."""
        weight = next(self.module.parameters(), None) if isinstance(self.module, nn.Module) else None
        given = y if weight is None else y.to(weight.dtype)
        return (self.module(given) if self.routing is None else self._mixture(given)).to(y.dtype)

    def _mixture(self, y: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        module: Any = self.module
        flat = y.flatten(0, -2)
        _, weights, chosen = frozen(module.router if hasattr(module, "router") else module.gate)(flat)
        weights = weights.detach() if self.routing == "frozen" else weights
        return frozen(module.experts)(flat, chosen, weights).view_as(y)

    @staticmethod
    def linear(
        norm: Norm,
        module: Any,
        up: nn.Linear,
        down: nn.Linear,
        activation: Callable[[Tensor], Tensor],
        gate: nn.Linear | None = None,
        post_norm: Norm | None = None,
    ) -> "Mlp":
        """An MLP whose matrices are `torch.nn.Linear`s."""
        return Mlp(
            norm,
            module,
            up.weight.detach().T,
            detach(up.bias),
            down.weight.detach().T,
            detach(down.bias),
            fast_activation(activation),
            None if gate is None else gate.weight.detach().T,
            None if gate is None else detach(gate.bias),
            post_norm,
        )

    @property
    def inputs(self) -> list[tuple[Float[Tensor, "D F"], Float[Tensor, " F"] | None]]:
        """The matrices that it reads with and their biases: the gate's first, if there is one; none for a module as it
        is.
        """
        pairs = (self.gate, self.gate_bias), (self.up, self.up_bias)
        return [(weight, bias) for weight, bias in pairs if weight is not None]


@dataclass(frozen=True)
class Layer:
    """One layer: attention, then (or, in a parallel block, beside it) an MLP."""

    attention: Attention
    mlp: Mlp


@dataclass(frozen=True)
class Parts:
    """A whole model as the engine sees it.

    Raises:
        InputError: a part is of another kind than its field says.
    """

    layers: Sequence[Layer]
    """In order. Those of an offloaded model are brought to the device when they are asked for, at a cost: use one at a
    time, and `stored` where only kinds and sizes are asked."""
    embed: Callable[[Int[Tensor, " N"], Int[Tensor, " N"]], tuple[Float[Tensor, "N D"], ...]]
    """From token ids and positions, both flat, to a tuple of embedding terms: (tokens,) or (tokens, positions)."""
    final_norm: Norm
    unembed: Callable[[Float[Tensor, "A D"]], Float[Tensor, "A V"]]
    """The user's own unembedding, applied after the final norm."""
    hidden: Callable[[Int[Tensor, "B S"], Bool[Tensor, "B S"], Int[Tensor, "B S"]], Float[Tensor, "B S D"]]
    """The user's own model up to and including the final norm, from ids, attention mask and positions. Prompts are
    padded on the right."""
    n_embeddings: int = 1
    """How many terms `embed` gives."""
    n_positions: int | None = None
    """How many tokens a prompt may have: positions with learned embeddings, or before rotary scaling would follow the
    longest prompt of its batch. None for no limit."""
    parallel: bool = False
    modules: tuple[nn.Module, ...] = field(default=(), repr=False)
    """What the adapter read from, outermost first."""

    def __post_init__(self) -> None:
        """Check the parts' kinds. Raises `InputError`."""
        _check_kinds("layers", self.stored, Layer)
        _check_kinds("final_norm", (self.final_norm,), Norm)
        for number, layer in enumerate(self.stored):
            for name, part, kind in (("attention", layer.attention, Attention), ("mlp", layer.mlp, Mlp)):
                _check_kinds(f"layer {number}'s {name}", (part,), kind)
                norms = (part.norm,) if part.post_norm is None else (part.norm, part.post_norm)
                _check_kinds(f"layer {number}'s norms of {name}", norms, Norm)
        for name in ("embed", "unembed", "hidden"):
            if not callable(getattr(self, name)):
                raise InputError(f"parts: {name} is a {type(getattr(self, name)).__name__}; give a function")

    @staticmethod
    def hidden_of(model: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """`hidden` of a `transformers` model without its language-modelling head."""
        return lambda ids, mask, positions: (
            model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False).last_hidden_state
        )

    @property
    def stored(self) -> Sequence[Layer]:
        """The layers with their weights where they lie, which need not be where they are run."""
        return getattr(self.layers, "stored", self.layers)

    @property
    def offloaded(self) -> bool:
        """Whether layers' weights lie elsewhere than where they are run."""
        return self.stored is not self.layers

    @property
    def like(self) -> Float[Tensor, " 0"]:
        """An empty tensor of the type and on the device in which layers run."""
        where = self.layers if self.offloaded else self.layers[0].attention.output_weight
        return torch.empty(0, dtype=where.dtype, device=where.device)  # pyright: ignore[reportAttributeAccessIssue] (offloaded layers have both)

    @property
    def n_heads(self) -> int:
        """Query heads per layer."""
        return self.stored[0].attention.query.weight.shape[0]

    @property
    def n_kv_heads(self) -> int:
        """Key and value heads per layer."""
        return self.stored[0].attention.key.weight.shape[0]

    @property
    def d_model(self) -> int:
        """D, the width of the residual stream."""
        return self.stored[0].attention.query.weight.shape[1]


def _check_kinds(name: str, parts: Iterable[Any], kind: type) -> None:
    """Refuse parts of another kind, before anything is asked of them. Raises `InputError`."""
    if wrong := [type(part).__name__ for part in parts if not isinstance(part, kind)]:
        raise InputError(f"parts: {name}: of type {wrong[0]}; give edgewise.models.{kind.__name__} (docs/extending.md)")


def detach(tensor: Tensor | None) -> Tensor | None:
    """A view of a parameter that shares its storage and carries no gradient."""
    return None if tensor is None else tensor.detach()


def frozen(module: nn.Module) -> Callable[..., Any]:
    """A user's module as a function that gives its own parameters no gradient."""
    return lambda *given: functional_call(module, {name: x.detach() for name, x in module.named_parameters()}, given)


def output_heads(module: nn.Linear, n: int) -> Float[Tensor, "n v D"]:
    """W_O of `n` heads from a `torch.nn.Linear` that reads them one after the other."""
    return module.weight.detach().T.view(n, -1, module.out_features)


def frozen_linear(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The user's linear layer as a function that never gives its weights a gradient."""

    def apply(x: Tensor) -> Tensor:
        weight, bias = module.weight, module.bias

        return functional.linear(x.to(weight.dtype), weight.detach(), detach(bias))

    return apply


def fast_activation(module: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The fused equivalent of an activation that `transformers` spells out in several steps, or the module itself.

    `NewGELUActivation` keeps six intermediate tensors for its backward; PyTorch's fused tanh-GELU is the same function
    in one.
    """
    if type(module).__name__ in ("NewGELUActivation", "GELUTanh"):
        return lambda x: functional.gelu(x, approximate="tanh")
    return module


def decoder_parts(module: Any, layer: Callable[[Any], Layer], **others: Any) -> Parts:
    """Those of a `transformers` decoder with rotary positions, RMS norms and a language-modelling head.

    Args:
        module: it has `model.embed_tokens`, `model.layers`, `model.norm` and `lm_head`.
        layer: the parts of one of `model.layers`.
        **others: fields of `Parts` that are otherwise than usual.
    """
    model = module.model
    usual = {
        "embed": lambda ids, positions: (model.embed_tokens(ids),),
        "final_norm": Norm.rms(model.norm),
        "unembed": frozen_linear(module.lm_head),
        "hidden": Parts.hidden_of(model),
        "n_positions": before_scaling(module.config),
        "modules": (module,),
    }
    return Parts(layers=tuple(layer(block) for block in model.layers), **(usual | others))


def before_scaling(config: Any) -> int | None:
    """How long prompts may be before rotary scaling follows the longest one of a batch (`dynamic`, `longrope`)."""
    given = getattr(config, "rope_parameters", None) or {}
    kinds = [each for each in given.values() if isinstance(each, dict)] or [given]
    long = [each.get("original_max_position_embeddings") for each in kinds if each.get("rope_type") == "longrope"]
    dynamic = [config.max_position_embeddings for each in kinds if "dynamic" in each.get("rope_type", "")]
    return min((n for n in (*long, *dynamic) if n), default=None)
