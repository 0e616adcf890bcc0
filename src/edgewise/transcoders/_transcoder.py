"""A transcoder: sparse features that read one vector of a model and write others. A sparse autoencoder is one whose two
vectors are the same.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.runs import check_record
from edgewise.transcoders._activation import Activation
from edgewise.transcoders._select import Encoder, select
from edgewise.transcoders._sites import Site
from edgewise.transcoders._sparse import Codes, decode


@dataclass(frozen=True)
class TranscoderSpec:
    """Sizes, sites and kind."""

    d_in: int
    """Width of what is read."""
    d_out: int
    """Width of each vector written."""
    n_features: int
    activation: Activation
    reads: Site
    writes: tuple[Site, ...]
    """One site, or for a cross-layer transcoder its own layer's and later layers', in order."""
    skip: bool = False
    """Whether a linear map of the input is added to the output of the first site."""
    input_bias: bool = False
    """Whether a vector is taken off the input first (`b_in`), as the paper's authors and most autoencoders do."""
    exclude_special: bool = False
    """Whether it was made for tokens other than special ones and the first of each row, at which its features are then
    off and the MLP's own output stays."""

    def __post_init__(self) -> None:
        """Check sizes and sites. Raises `InputError`."""
        if min(self.d_in, self.d_out, self.n_features) < 1:
            raise InputError(f"transcoder: widths {self.d_in}, {self.d_out}, features {self.n_features}: at least 1")
        if self.activation.k is not None and self.activation.k > self.n_features:
            raise InputError(f"activation {self.activation}: there are only {self.n_features} features")
        layers = [site.layer for site in self.writes]
        if not layers or layers != sorted(set(layers)):
            raise InputError("transcoder: it writes to one site per layer, in order of the layers, and to at least one")
        if self.reads.layer > layers[0]:
            raise InputError(f"transcoder: reads {self.reads}, which comes after {self.writes[0]}, which it writes")
        if self.is_autoencoder and self.d_in != self.d_out:
            raise InputError(f"autoencoder of {self.reads}: widths {self.d_in} and {self.d_out} must be the same")
        if not self.is_autoencoder and (self.reads.kind == "mlp_out" or any(w.kind != "mlp_out" for w in self.writes)):
            raise InputError(
                f"transcoder: reads {self.reads} and writes {self.writes[0]}; it must read an MLP's input and write "
                "mlp_out, or read and write the same site (an autoencoder)"
            )

    @property
    def is_autoencoder(self) -> bool:
        """Whether it reads and writes one and the same site."""
        return self.writes == (self.reads,)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "TranscoderSpec":
        """The inverse of `to_dict`. Raises `KeyError`, `TypeError` or `InputError` for what is not one."""
        if "exclude_special" not in values:  # no default: it changes numbers
            raise KeyError("exclude_special")
        given = dict(values)
        given["activation"] = Activation(**given["activation"])
        given["reads"] = Site(**given["reads"])
        given["writes"] = tuple(Site(**site) for site in given["writes"])
        found = TranscoderSpec(**given)
        check_record(found)
        return found


class Transcoder(nn.Module):
    """`z = activation((x − b_in) W_encᵀ + b_enc)`, `y = z W_dec + b_dec (+ x W_skipᵀ)`.

    A row of `W_enc` and of `W_dec` is a feature. A cross-layer transcoder's row of `W_dec` holds its vectors for all
    the layers that it writes to, one after the other; `b_dec` and the skip connection belong to the first of them
    (later layers have transcoders of their own, with biases of their own).
    """

    W_enc: nn.Parameter
    """`[F, D_in]`"""
    b_enc: nn.Parameter
    """`[F]`"""
    W_dec: nn.Parameter
    """`[F, M · D_out]` for M sites."""
    b_dec: nn.Parameter
    """`[D_out]`"""
    b_in: nn.Parameter | None
    """`[D_in]`"""
    W_skip: nn.Parameter | None
    """`[D_out, D_in]`"""
    threshold: Tensor
    """`[F]`, a parameter, for `jumprelu`; `[1]`, a buffer, for `batch_topk`; `[0]` otherwise."""

    def __init__(self, spec: TranscoderSpec, *, dtype: torch.dtype = torch.float32, device: Any = None) -> None:
        """Make one of zeros; see `initialise`."""
        super().__init__()
        self.spec: TranscoderSpec = spec
        self.provenance: dict[str, Any] = {}
        self.name: str = ""
        """What the file was called, for tables; not saved."""

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))

        self.W_enc, self.b_enc = zeros(spec.n_features, spec.d_in), zeros(spec.n_features)
        self.W_dec, self.b_dec = zeros(spec.n_features, len(spec.writes) * spec.d_out), zeros(spec.d_out)
        self.b_in = zeros(spec.d_in) if spec.input_bias else None
        self.W_skip = zeros(spec.d_out, spec.d_in) if spec.skip else None
        kind = spec.activation.kind
        if kind == "jumprelu":
            self.threshold = zeros(spec.n_features)
        else:
            self.register_buffer("threshold", torch.zeros(int(kind == "batch_topk"), dtype=dtype, device=device))

    @property
    def activation(self) -> Activation:
        """The activation kind."""
        return self.spec.activation

    @property
    def encoder(self) -> Encoder:
        """Its weights as they are, without gradients."""
        return Encoder(self.W_enc.detach(), self.b_enc.detach(), self.activation, self.threshold.detach())

    @property
    def n_features(self) -> int:
        """F."""
        return self.spec.n_features

    def centre(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """The input without `b_in`."""
        return x if self.b_in is None else x - self.b_in

    def pre_activations(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """All features' pre-activations, dense."""
        return nn.functional.linear(self.centre(x), self.W_enc, self.b_enc)

    def encode(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """All features' activations, dense and differentiable (through the active ones)."""
        pre = self.pre_activations(x)
        if self.activation.kind == "topk":
            assert self.activation.k is not None
            values, index = pre.topk(self.activation.k)
            return torch.zeros_like(pre).scatter(-1, index, self.activate(values, None))
        return self.activate(pre, self.threshold if self.activation.thresholded else None)

    def activate(self, pre: Tensor, threshold: Tensor | None) -> Tensor:
        """What the activation makes of chosen pre-activations."""
        if threshold is not None:
            pre = torch.where(pre > threshold, pre, 0.0)
        return pre.relu() if self.activation.rectified else pre

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "N D"], *, bf16: bool = False) -> Codes:
        """The active features of tokens `x`, sparse and without gradients; `bf16`: chosen in bfloat16. Raises
        `InputError` for other than rows of vectors of the site's width.
        """
        self.check_input(x)
        if x.ndim != 2:
            raise InputError(
                f"transcoder of {self.spec.reads}: codes are of rows of vectors [N, D], got {list(x.shape)}; "
                "flatten(0, -2) first"
            )
        found = select(self.encoder, self.centre(x), bf16=bf16).codes
        threshold = None
        if self.activation.thresholded:
            threshold = self.threshold[found.feature] if len(self.threshold) > 1 else self.threshold
        return found.with_values(self.activate(found.value, threshold))

    def decode(self, codes: Codes, x: Float[Tensor, "N D"]) -> Float[Tensor, "N M E"]:
        """What the features write to each of the M sites; `x` is for the skip connection."""
        written = decode(codes, self.W_dec).view(len(x), len(self.spec.writes), self.spec.d_out)
        own = written[:, 0] + self.b_dec
        if self.W_skip is not None:
            own = own + x @ self.W_skip.T
        return torch.cat([own[:, None], written[:, 1:]], 1) if len(self.spec.writes) > 1 else own[:, None]

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N E"] | Float[Tensor, "*N M E"]:
        """The reconstruction; `[*N, M, E]` for a cross-layer transcoder. Differentiable in `x` and the weights."""
        self.check_input(x)
        flat = x.reshape(-1, x.shape[-1])
        codes = Codes.of(self.encode(flat)) if torch.is_grad_enabled() else self.codes(flat)
        y = self.decode(codes, flat)
        y = y.reshape(*x.shape[:-1], *y.shape[1:])  # of one vector too
        return y.squeeze(-2) if len(self.spec.writes) == 1 else y

    def check_input(self, x: Tensor) -> None:
        """Refuse a vector of another width. Raises `InputError`."""
        if x.shape[-1] != self.spec.d_in:
            raise InputError(f"transcoder of {self.spec.reads}: it reads width {self.spec.d_in}, got {x.shape[-1]}")

    @torch.no_grad()
    def initialise(
        self, x: Float[Tensor, "N D"], y: Float[Tensor, "N M E"], seed: int, *, unit_norm: bool = False
    ) -> None:
        """Start values from a few tokens: random encoder directions that see centred inputs, and the mean output.

        Args:
            x: inputs.
            y: outputs, for each site.
            seed: of the directions.
            unit_norm: start the decoder from random unit rows; otherwise from zero, and an autoencoder's from its
                encoder's directions.
        """
        generator = torch.Generator("cpu").manual_seed(seed)

        def directions(n: int, width: int) -> Tensor:
            rows = torch.randn(n, width, generator=generator, dtype=torch.float32, device="cpu")
            return (rows / rows.norm(dim=1, keepdim=True)).to(self.W_enc)

        mean = x.mean(0)
        self.W_enc.copy_(directions(self.n_features, self.spec.d_in))
        # Pre-activations of standard deviation near 1 whatever the scale of the site.
        self.W_enc.mul_(self.spec.d_in**0.5 / (x - mean).norm(dim=1).mean().clamp(min=1e-12))
        if self.b_in is None:
            self.b_enc.copy_(-(self.W_enc @ mean))
        else:
            self.b_in.copy_(mean)
        self.b_dec.copy_(y[:, 0].mean(0))
        if self.spec.is_autoencoder:
            self.W_dec.copy_(self.W_enc / self.W_enc.norm(dim=1, keepdim=True))
        elif unit_norm:
            self.W_dec.copy_(directions(self.n_features, self.W_dec.shape[1]))

    @torch.no_grad()
    def folded(self, b_in: Float[Tensor, " D"] | None = None) -> "Transcoder":
        """The same function with another input bias: none (the paper's form), or a given one.

        From the authors' code to the paper: `b_enc' = b_enc − W_enc b_in`, and `b_in` is gone.
        """
        spec = TranscoderSpec(**{**self.spec.__dict__, "input_bias": b_in is not None})
        other = Transcoder(spec, dtype=self.W_enc.dtype, device=self.W_enc.device)
        state = {name: tensor.clone() for name, tensor in self.state_dict().items() if name != "b_in"}
        before = 0.0 if self.b_in is None else self.W_enc @ self.b_in
        after = 0.0 if b_in is None else self.W_enc @ b_in
        same = b_in is not None and self.b_in is not None and torch.equal(b_in, self.b_in)
        if not same:  # otherwise the bias stays as it is, to the bit
            state["b_enc"] = self.b_enc - before + after
        if b_in is not None:
            state["b_in"] = b_in.clone()
        other.load_state_dict(state)
        other.provenance, other.name = dict(self.provenance), self.name
        return other


def cross_layer(transcoders: Iterable[Transcoder]) -> dict[int, tuple[int, ...]]:
    """To which later layers each transcoder's features write too, by the layer that they read: for
    `model.graph(cross_layer=…)`. Those of one layer are left out.
    """
    return {
        each.spec.reads.layer: tuple(site.layer for site in each.spec.writes[1:])
        for each in transcoders
        if len(each.spec.writes) > 1
    }
