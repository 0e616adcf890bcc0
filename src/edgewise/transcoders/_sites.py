"""Sites: which vector of a model a transcoder reads or writes, said exactly."""

from dataclasses import dataclass, field

from edgewise._errors import InputError

KINDS = {
    "resid_pre": "the residual stream before the layer",
    "resid_mid": "the residual stream that the layer's MLP norm reads",
    "mlp_normalized": "after the MLP's norm, before the norm's gain and bias",
    "mlp_in": "what the MLP is given: after the norm's gain and bias",
    "hook_normalized": "TransformerLens' `ln2.hook_normalized` of a model as it is, no norm folded: `mlp_in` where the "
    "MLP's norm is a layer norm, `mlp_normalized` where it is an RMS norm",
    "mlp_out": "what the MLP adds to the residual stream (after a post-norm, where there is one)",
    "resid_post": "the residual stream after the layer",
}
"""The vectors that a site can name, and what each is."""
CAPTURED = ("resid_mid", "mlp_normalized", "mlp_in", "hook_normalized", "mlp_out")
"""Those that can be read off a model here; the others are named in other tools' files."""


@dataclass(frozen=True)
class Site:
    """One vector per token of a model."""

    kind: str
    """A key of `KINDS`."""
    layer: int
    """Which layer, from 0."""
    centred: bool = False
    """Whether the mean over the components is taken off (as tools do that fold layer norms into the weights)."""
    before_post_norm: bool = field(default=False, compare=False)
    """Whether a file says this of the MLP module's own output. Where the model has a post-norm after it, that is
    another vector than `mlp_out`, and refused; anywhere else it is the same, so that it tells no sites apart."""

    def __post_init__(self) -> None:
        """Check the name and the layer. Raises `InputError`."""
        if self.kind not in KINDS:
            raise InputError(f"site {self.kind!r}: there is no such site; choose {', '.join(KINDS)}")
        if not isinstance(self.layer, int) or self.layer < 0:
            raise InputError(f"site {self.kind}: layer {self.layer!r} is no layer; they count from 0")

    def __str__(self) -> str:
        return f"layer {self.layer} {self.kind}{', centred' if self.centred else ''}"

    @property
    def key(self) -> str:
        """A name without blanks, for files and columns."""
        return f"{self.layer}.{self.kind}{'.centred' if self.centred else ''}"

    @staticmethod
    def parse(key: str) -> "Site":
        """The inverse of `key`. Raises `InputError`."""
        layer, _, rest = key.partition(".")
        kind, _, centred = rest.partition(".")
        if not layer.isdecimal() or centred not in ("", "centred"):
            raise InputError(f"site {key!r}: write LAYER.KIND or LAYER.KIND.centred, such as 8.mlp_in")
        return Site(kind, int(layer), bool(centred))
